/* Reports: what happens to an exception that a handler raised.
 *
 * One record on the logger, then the on_error callback.  Both are strangers too: what they raise
 * goes to sys.unraisablehook, never to the emitter and never back into the bus.  KeyboardInterrupt
 * and its like are nobody's failure and always propagate.  A payload is never part of a report.
 */
#include "report.h"

static PyObject *
logger_of(aeb_bus *bus)
{
    PyObject *own = aeb_bus_get(bus, &bus->logger);
    if (own != NULL) {
        return own;
    }
    aeb_state *state = bus->state;
    if (AEB_LOAD(state->default_logger) == NULL) {
        PyObject *logging = PyImport_ImportModule("logging");
        if (logging == NULL) {
            return NULL;
        }
        PyObject *logger = PyObject_CallMethod(logging, "getLogger", "s", "agent_event_bus");
        Py_DECREF(logging);
        if (logger == NULL) {
            return NULL;
        }
        aeb_fill_once(&state->default_logger, logger);
    }
    return Py_NewRef(state->default_logger);
}

/* The pending exception came out of the report itself: out of the logger or out of on_error.
 *
 * 0 when sys.unraisablehook has got it, -1 when it must propagate.  Runaway recursion can run
 * through here as well, when a logging handler emits. */
static int
report_of_report(PyObject *source, bool nested)
{
    if (!PyErr_ExceptionMatches(PyExc_Exception) ||
        (nested && PyErr_ExceptionMatches(PyExc_RecursionError))) {
        return -1;
    }
    PyErr_WriteUnraisable(source);
    return 0;
}

/* str(exc), or its type's name when that fails. */
static PyObject *
exception_text(PyObject *exc)
{
    PyObject *text = PyObject_Str(exc);
    if (text == NULL && aeb_clear_ordinary_exception() == 0) {
        text = PyUnicode_FromString(Py_TYPE(exc)->tp_name);
    }
    return text;
}

/* exc_info for logging, as a tuple: logging asks an exception object for its truth, and a
 * stranger's may have none. */
static PyObject *
exc_info_of(PyObject *exc)
{
    if (exc == NULL) {
        return Py_NewRef(Py_None);
    }
    PyObject *traceback = PyException_GetTraceback(exc);
    PyObject *result =
        PyTuple_Pack(3, (PyObject *)Py_TYPE(exc), exc, traceback == NULL ? Py_None : traceback);
    Py_XDECREF(traceback);
    return result;
}

/* The attributes that every record about a handler has. */
static PyObject *
record_attributes(aeb_state *state, PyObject *handler_name, PyObject *name)
{
    PyObject *extra = PyDict_New();
    if (extra != NULL && (PyDict_SetItem(extra, state->str_event_name, name) < 0 ||
                          PyDict_SetItem(extra, state->str_handler_name, handler_name) < 0)) {
        Py_CLEAR(extra);
    }
    return extra;
}

/* logger.<method>(format, handler_name, name, exc_info=None, extra={...}), and with an exception
 * (format, handler_name, name, text, exc_info=exc, ...) or (format, handler_name, seconds, name,
 * exc_info=exc, ...) when `seconds` is not NULL. */
static int
log_record(aeb_bus *bus, PyObject *method, const char *format_text, PyObject *handler_name,
           PyObject *seconds, PyObject *name, PyObject *exc, bool nested)
{
    int status = -1;
    PyObject *format = NULL, *text = NULL, *exc_info = NULL, *extra = NULL, *result = NULL;
    PyObject *logger = logger_of(bus);
    if (logger == NULL) {
        goto done;
    }
    format = PyUnicode_FromString(format_text);
    text = exc == NULL ? Py_NewRef(Py_None) : exception_text(exc);
    exc_info = exc_info_of(exc);
    extra = record_attributes(bus->state, handler_name, name);
    if (format == NULL || text == NULL || exc_info == NULL || extra == NULL) {
        goto done;
    }
    if (seconds != NULL) {
        PyObject *args[] = {logger, format, handler_name, seconds, name, exc_info, extra};
        result = PyObject_VectorcallMethod(method, args, 5, bus->state->log_kwnames);
    }
    else if (exc != NULL) {
        PyObject *args[] = {logger, format, handler_name, name, text, exc_info, extra};
        result = PyObject_VectorcallMethod(method, args, 5, bus->state->log_kwnames);
    }
    else {
        PyObject *args[] = {logger, format, handler_name, name, exc_info, extra};
        result = PyObject_VectorcallMethod(method, args, 4, bus->state->log_kwnames);
    }
    status = result == NULL ? -1 : 0;

done:
    if (status < 0) {
        status = report_of_report(logger, nested);
    }
    Py_XDECREF(result);
    Py_XDECREF(extra);
    Py_XDECREF(exc_info);
    Py_XDECREF(text);
    Py_XDECREF(format);
    Py_XDECREF(logger);
    return status;
}

static int
call_on_error(aeb_bus *bus, PyObject *name, PyObject *handler, PyObject *exc, bool nested)
{
    PyObject *on_error = aeb_bus_get(bus, &bus->on_error);
    if (on_error == NULL) {
        return 0;
    }
    int status = 0;
    PyObject *result = PyObject_CallFunctionObjArgs(on_error, name, handler, exc, NULL);
    if (result == NULL) {
        status = report_of_report(on_error, nested);
    }
    Py_XDECREF(result);
    Py_DECREF(on_error);
    return status;
}

/* The handler for on_error; None when it was held weakly and is gone. */
static PyObject *
live_handler(aeb_subscription *sub)
{
    PyObject *handler = aeb_subscription_handler(sub);
    if (handler == NULL) {
        PyErr_Clear();
        return Py_NewRef(Py_None);
    }
    return handler;
}

bool
aeb_cancelled_error_pending(aeb_state *state)
{
    if (AEB_LOAD(state->cancelled_error) == NULL) {
        /* Without asyncio nobody can have raised it, so there is no need to import it. */
        PyObject *found, *exc = aeb_take_exception();
        if (aeb_loaded_attribute("asyncio.exceptions", "CancelledError", &found) < 0) {
            PyErr_Clear();
        }
        if (found != NULL) {
            aeb_fill_once(&state->cancelled_error, found);
        }
        aeb_restore_exception_steal(exc);
        if (found == NULL) {
            return false;
        }
    }
    return PyErr_ExceptionMatches(state->cancelled_error);
}

int
aeb_report_cancelled(aeb_bus *bus, aeb_subscription *sub, PyObject *name, bool nested)
{
    PyObject *handler_name = aeb_subscription_handler_name(sub);
    if (handler_name == NULL) {
        return report_of_report(NULL, nested);
    }
    int status =
        log_record(bus, bus->state->str_warning, "Handler '%s' was cancelled on event '%s'",
                   handler_name, NULL, name, NULL, nested);
    Py_DECREF(handler_name);
    return status;
}

aeb_ending
aeb_account_ending(aeb_bus *bus, aeb_subscription *sub, bool nested, bool late)
{
    aeb_report_expect_exception();
    if (!PyErr_ExceptionMatches(PyExc_Exception)) {
        if (!aeb_cancelled_error_pending(bus->state)) {
            return AEB_ENDED_FATALLY;
        }
        (void)AEB_ADD(bus->n_cancelled, !late);
        return AEB_ENDED_CANCELLED;
    }
    (void)AEB_ADD(sub->failures, 1);
    (void)AEB_ADD(bus->n_failed, !late);
    if (nested && PyErr_ExceptionMatches(PyExc_RecursionError)) {
        return AEB_ENDED_FATALLY;
    }
    return AEB_FAILED;
}

static int
report_exception(aeb_bus *bus, aeb_subscription *sub, PyObject *name, bool nested, bool late)
{
    aeb_ending ending = aeb_account_ending(bus, sub, nested, late);
    if (ending == AEB_ENDED_CANCELLED) {
        PyErr_Clear();
        return aeb_report_cancelled(bus, sub, name, nested);
    }
    if (ending == AEB_ENDED_FATALLY) {
        return -1;
    }
    PyObject *exc = aeb_take_exception();
    int status = aeb_report_accounted(bus, sub, name, exc, nested);
    Py_DECREF(exc);
    return status;
}

int
aeb_report_failure(aeb_bus *bus, aeb_subscription *sub, PyObject *name, bool nested)
{
    return report_exception(bus, sub, name, nested, false);
}

int
aeb_report_late_failure(aeb_bus *bus, aeb_subscription *sub, PyObject *name, bool nested)
{
    return report_exception(bus, sub, name, nested, true);
}

int
aeb_report_accounted(aeb_bus *bus, aeb_subscription *sub, PyObject *name, PyObject *exc,
                     bool nested)
{
    PyObject *handler = live_handler(sub);
    PyObject *handler_name = aeb_subscription_handler_name(sub);
    int status;
    if (handler_name == NULL) {
        status = report_of_report(NULL, nested);
    }
    else {
        status = log_record(bus, bus->state->str_error, "Handler '%s' raised on event '%s': %s",
                            handler_name, NULL, name, exc, nested);
    }
    if (status == 0) {
        status = call_on_error(bus, name, handler, exc, nested);
    }
    Py_XDECREF(handler_name);
    Py_DECREF(handler);
    return status;
}

PyObject *
aeb_account_timeout(aeb_subscription *sub)
{
    (void)AEB_ADD(sub->failures, 1);
    PyObject *seconds = PyFloat_FromDouble(sub->timeout);
    PyObject *text = seconds == NULL ? NULL : PyUnicode_FromFormat("timed out after %R s", seconds);
    PyObject *exc = text == NULL ? NULL : PyObject_CallOneArg(PyExc_TimeoutError, text);
    Py_XDECREF(text);
    Py_XDECREF(seconds);
    return exc;
}

int
aeb_report_timeout(aeb_bus *bus, aeb_subscription *sub, PyObject *name, bool nested)
{
    PyObject *handler = live_handler(sub);
    PyObject *exc = aeb_account_timeout(sub);
    /* One after the other, as nothing may be called while an error is pending. */
    PyObject *seconds = exc == NULL ? NULL : PyFloat_FromDouble(sub->timeout);
    PyObject *handler_name = seconds == NULL ? NULL : aeb_subscription_handler_name(sub);
    int status;
    if (handler_name == NULL) {
        status = report_of_report(NULL, nested);
    }
    else {
        status = log_record(bus, bus->state->str_error,
                            "Handler '%s' timed out after %g s on event '%s'", handler_name,
                            seconds, name, exc, nested);
    }
    if (status == 0 && exc != NULL) {
        status = call_on_error(bus, name, handler, exc, nested);
    }
    Py_XDECREF(exc);
    Py_XDECREF(seconds);
    Py_XDECREF(handler_name);
    Py_DECREF(handler);
    return status;
}

int
aeb_report_dropped(aeb_bus *bus, aeb_subscription *sub, PyObject *name, Py_ssize_t limit,
                   uint64_t dropped, bool nested)
{
    aeb_state *state = bus->state;
    int status = -1;
    PyObject *format = NULL, *handler_name = NULL, *extra = NULL, *result = NULL;
    PyObject *limit_number = NULL, *dropped_number = NULL;
    PyObject *logger = logger_of(bus);
    if (logger == NULL) {
        goto done;
    }
    format = PyUnicode_FromString(
        "Handler '%s' was dropped on event '%s': max_pending=%s handlers are pending "
        "(%s dropped since the last warning)");
    handler_name = aeb_subscription_handler_name(sub);
    limit_number = PyLong_FromSsize_t(limit);
    dropped_number = PyLong_FromUnsignedLongLong(dropped);
    extra = handler_name == NULL ? NULL : record_attributes(state, handler_name, name);
    if (format == NULL || limit_number == NULL || dropped_number == NULL || extra == NULL ||
        PyDict_SetItem(extra, state->str_dropped, dropped_number) < 0) {
        goto done;
    }
    PyObject *args[] = {logger,       format,         handler_name, name,
                        limit_number, dropped_number, Py_None,      extra};
    result = PyObject_VectorcallMethod(state->str_warning, args, 6, state->log_kwnames);
    status = result == NULL ? -1 : 0;

done:
    if (status < 0) {
        status = report_of_report(logger, nested);
    }
    Py_XDECREF(result);
    Py_XDECREF(extra);
    Py_XDECREF(dropped_number);
    Py_XDECREF(limit_number);
    Py_XDECREF(handler_name);
    Py_XDECREF(format);
    Py_XDECREF(logger);
    return status;
}

int
aeb_report_slow(aeb_bus *bus, PyObject *name, double total, aeb_subscription *slowest,
                double longest, bool nested)
{
    static const char *const formats[] = {
        "Routing event '%s' took %.4g s (limit %g s)",
        "Routing event '%s' took %.4g s (limit %g s); slowest handler '%s' took %.4g s",
    };
    bool known = slowest != NULL;
    int status = -1;
    PyObject *format = NULL, *handler_name = NULL, *extra = NULL, *result = NULL;
    PyObject *total_number = NULL, *limit_number = NULL, *longest_number = NULL;
    PyObject *logger = logger_of(bus);
    if (logger == NULL) {
        goto done;
    }
    format = PyUnicode_FromString(formats[known]);
    handler_name = known ? aeb_subscription_handler_name(slowest) : Py_NewRef(Py_None);
    total_number = PyFloat_FromDouble(total);
    limit_number = PyFloat_FromDouble(bus->slow_after);
    longest_number = PyFloat_FromDouble(longest);
    extra = handler_name == NULL ? NULL : record_attributes(bus->state, handler_name, name);
    if (format == NULL || total_number == NULL || limit_number == NULL || longest_number == NULL ||
        extra == NULL) {
        goto done;
    }
    if (known) {
        PyObject *args[] = {logger,       format,         name,    total_number, limit_number,
                            handler_name, longest_number, Py_None, extra};
        result =
            PyObject_VectorcallMethod(bus->state->str_warning, args, 7, bus->state->log_kwnames);
    }
    else {
        PyObject *args[] = {logger, format, name, total_number, limit_number, Py_None, extra};
        result =
            PyObject_VectorcallMethod(bus->state->str_warning, args, 5, bus->state->log_kwnames);
    }
    status = result == NULL ? -1 : 0;

done:
    if (status < 0) {
        status = report_of_report(logger, nested);
    }
    Py_XDECREF(result);
    Py_XDECREF(extra);
    Py_XDECREF(longest_number);
    Py_XDECREF(limit_number);
    Py_XDECREF(total_number);
    Py_XDECREF(handler_name);
    Py_XDECREF(format);
    Py_XDECREF(logger);
    return status;
}

int
aeb_report_closed(aeb_bus *bus, PyObject *name)
{
    if (AEB_LOAD(bus->closed_warned)) {
        return 0;
    }
    AEB_STORE(bus->closed_warned, true);
    int status = -1;
    PyObject *result = NULL;
    PyObject *logger = logger_of(bus);
    if (logger != NULL) {
        result =
            PyObject_CallMethod(logger, "warning", "sO",
                                "Event '%s' emitted on a closed bus; nothing was delivered", name);
        status = result == NULL ? -1 : 0;
    }
    if (status < 0) {
        status = report_of_report(logger, false);
    }
    Py_XDECREF(result);
    Py_XDECREF(logger);
    return status;
}

int
aeb_report_traverse(aeb_bus *bus, visitproc visit, void *arg)
{
    Py_VISIT(bus->logger);
    Py_VISIT(bus->on_error);
    return 0;
}

void
aeb_report_clear(aeb_bus *bus)
{
    Py_CLEAR(bus->logger);
    Py_CLEAR(bus->on_error);
}
