/* The options of an EventBus: what its constructor takes, and what can be changed later. */
#include "bus_init.h"

#include "history.h"
#include "options.h"
#include "plan_cache.h"
#include "subscription.h"
#include "timing.h"

/* TypeError unless `obj` has these callable attributes. */
static int
check_methods(PyObject *obj, const char *argument, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        PyObject *method;
        if (aeb_get_attribute(obj, names[i], &method) < 0) {
            return -1;
        }
        bool callable = method != NULL && PyCallable_Check(method);
        Py_XDECREF(method);
        if (!callable) {
            PyErr_Format(PyExc_TypeError, "%s must not be %.200s: it has no method %s", argument,
                         Py_TYPE(obj)->tp_name, names[i]);
            return -1;
        }
    }
    return 0;
}

static int
set_loop(aeb_bus *self, PyObject *loop)
{
    static const char *const methods[] = {"call_soon_threadsafe", "is_closed"};
    if (loop == Py_None) {
        aeb_bus_set(self, &self->loop, NULL);
        return 0;
    }
    if (check_methods(loop, "loop", methods, Py_ARRAY_LENGTH(methods)) < 0) {
        return -1;
    }
    aeb_bus_set(self, &self->loop, loop);
    return 0;
}

PyObject *
aeb_bus_bind_loop(aeb_bus *self, PyObject *loop)
{
    if (set_loop(self, loop) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static int
check_on_error(PyObject *on_error)
{
    if (!PyCallable_Check(on_error)) {
        PyErr_Format(PyExc_TypeError, "on_error must be callable or None, not %.200s",
                     Py_TYPE(on_error)->tp_name);
        return -1;
    }
    int is_async = aeb_is_coroutine_function(on_error);
    if (is_async > 0) {
        PyErr_SetString(PyExc_TypeError,
                        "on_error must not be a coroutine function: nobody would await it");
    }
    return is_async != 0 ? -1 : 0;
}

PyObject *
aeb_bus_get_on_error(aeb_bus *self, void *Py_UNUSED(closure))
{
    PyObject *on_error = aeb_bus_get(self, &self->on_error);
    return on_error != NULL ? on_error : Py_NewRef(Py_None);
}

int
aeb_bus_set_on_error(aeb_bus *self, PyObject *on_error, void *Py_UNUSED(closure))
{
    if (on_error == NULL) {
        PyErr_SetString(PyExc_AttributeError, "on_error cannot be deleted: set it to None");
        return -1;
    }
    if (on_error != Py_None && check_on_error(on_error) < 0) {
        return -1;
    }
    aeb_bus_set(self, &self->on_error, on_error == Py_None ? NULL : on_error);
    return 0;
}

int
aeb_bus_init(aeb_bus *self, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"name",       "history",     "logger",          "on_error",
                               "loop",       "max_pending", "max_concurrency", "handler_timeout",
                               "slow_after", "timing",      "strict",          "async_only",
                               NULL};
    PyObject *name = Py_None, *logger = Py_None, *on_error = Py_None, *loop = Py_None;
    PyObject *pending_option = Py_None, *concurrency_option = Py_None, *timeout_option = Py_None;
    PyObject *history_option = NULL, *slow_option = Py_None, *timing_option = Py_False;
    PyObject *strict_option = Py_False, *async_option = Py_False;
    Py_ssize_t max_pending, max_concurrency, history = 0;
    double handler_timeout, slow_after;
    bool timing, strict, async_only;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O$OOOOOOOOOOO:EventBus", keywords, &name,
                                     &history_option, &logger, &on_error, &loop, &pending_option,
                                     &concurrency_option, &timeout_option, &slow_option,
                                     &timing_option, &strict_option, &async_option) ||
        (history_option != NULL && aeb_parse_count(history_option, "history", &history) < 0) ||
        aeb_parse_limit(pending_option, "max_pending", &max_pending) < 0 ||
        aeb_parse_limit(concurrency_option, "max_concurrency", &max_concurrency) < 0 ||
        aeb_parse_seconds(timeout_option, "handler_timeout", &handler_timeout) < 0 ||
        aeb_parse_seconds(slow_option, "slow_after", &slow_after) < 0 ||
        aeb_parse_flag(timing_option, "timing", &timing) < 0 ||
        aeb_parse_flag(strict_option, "strict", &strict) < 0 ||
        aeb_parse_flag(async_option, "async_only", &async_only) < 0) {
        return -1;
    }
    if (name != Py_None && !PyUnicode_Check(name)) {
        PyErr_Format(PyExc_TypeError, "name must be a str or None, not %.200s",
                     Py_TYPE(name)->tp_name);
        return -1;
    }
    static const char *const logger_methods[] = {"error", "warning"};
    if ((logger != Py_None &&
         check_methods(logger, "logger", logger_methods, Py_ARRAY_LENGTH(logger_methods)) < 0) ||
        (on_error != Py_None && check_on_error(on_error) < 0) || set_loop(self, loop) < 0) {
        return -1;
    }
    PyObject *exact_name = name == Py_None ? Py_NewRef(name) : PyUnicode_FromObject(name);
    if (exact_name == NULL) {
        return -1;
    }
    self->max_pending = max_pending;
    self->max_concurrency = max_concurrency;
    self->handler_timeout = handler_timeout;
    self->async_only = async_only;
    AEB_STORE(self->emit_barred, AEB_LOAD(self->closed) || async_only);
    self->strict = strict;
    aeb_history_configure(self, history);
    aeb_timing_configure(self, timing, slow_after);
    self->plan_flags = (history > 0 ? AEB_PLAN_RECORDED : 0) |
                       (timing || slow_after > 0 ? AEB_PLAN_TIMED | AEB_PLAN_CAREFUL : 0);
    AEB_LOCK(self);
    /* They have other flags, and a strict bus makes none for some names. */
    aeb_plans_drop_all_locked(self);
    AEB_UNLOCK();
    aeb_bus_set(self, &self->name, exact_name);
    aeb_bus_set(self, &self->logger, logger == Py_None ? NULL : logger);
    aeb_bus_set(self, &self->on_error, on_error == Py_None ? NULL : on_error);
    Py_DECREF(exact_name);
    return 0;
}
