/* Dispatch: the loop over the sync handlers of one plan: call, isolate, count. */
#include "dispatch.h"

#include "careful.h"
#include "event.h"
#include "history.h"
#include "report.h"
#include "schema.h"

/* ---- which threads are emitting -------------------------------------------------------------- */

#ifdef Py_GIL_DISABLED
#define LOCK_EMITTING(state) PyMutex_Lock(&(state)->emitting_mutex)
#define UNLOCK_EMITTING(state) PyMutex_Unlock(&(state)->emitting_mutex)
#else
#define LOCK_EMITTING(state) ((void)0)
#define UNLOCK_EMITTING(state) ((void)0)
#endif

/* Rarely more than one thread is inside an emission, so the search ends at its first element. */
static inline aeb_emitting *
find_emitting(aeb_state *state, PyThreadState *thread)
{
    for (Py_ssize_t i = 0; i < state->n_emitting; i++) {
        if (state->emitting[i].thread == thread) {
            return &state->emitting[i];
        }
    }
    return NULL;
}

static int
grow_emitting(aeb_state *state)
{
    Py_ssize_t capacity = 2 * state->emitting_capacity;
    aeb_emitting *grown = PyMem_Realloc(state->emitting, (size_t)capacity * sizeof(aeb_emitting));
    if (grown == NULL) {
        return -1;
    }
    state->emitting = grown;
    state->emitting_capacity = capacity;
    return 0;
}

/* One level more for a thread; whether it is inside an emission already.  -1 without memory. */
static int
enter_once_more(aeb_state *state, PyThreadState *thread)
{
    aeb_emitting *found = find_emitting(state, thread);
    if (found != NULL) {
        found->depth++;
        return 1;
    }
    if (state->n_emitting == state->emitting_capacity && grow_emitting(state) < 0) {
        return -1;
    }
    state->emitting[state->n_emitting] = (aeb_emitting){.thread = thread, .depth = 1};
    AEB_STORE(state->n_emitting, state->n_emitting + 1);
    return 0;
}

static void
leave_once(aeb_state *state, PyThreadState *thread)
{
    aeb_emitting *found = find_emitting(state, thread);
    if (--found->depth == 0) {
        *found = state->emitting[state->n_emitting - 1];
        AEB_STORE(state->n_emitting, state->n_emitting - 1);
    }
}

int
aeb_dispatch_enter_contended(aeb_state *state)
{
    PyThreadState *thread = PyThreadState_Get();
    LOCK_EMITTING(state);
    int nested = enter_once_more(state, thread);
    UNLOCK_EMITTING(state);
    if (nested < 0) {
        PyErr_NoMemory();
    }
    /* A chain of handlers without a Python frame (bus.on("*", bus.emit)) must end as well. */
    else if (nested > 0 && Py_EnterRecursiveCall(" in a nested emission")) {
        LOCK_EMITTING(state);
        leave_once(state, thread);
        UNLOCK_EMITTING(state);
        return -1;
    }
    return nested;
}

void
aeb_dispatch_leave_contended(aeb_state *state, bool nested)
{
    if (nested) {
        Py_LeaveRecursiveCall();
    }
    LOCK_EMITTING(state);
    leave_once(state, PyThreadState_Get());
    UNLOCK_EMITTING(state);
}

void
aeb_dispatch_after_fork(aeb_state *state)
{
    aeb_emitting *found = find_emitting(state, PyThreadState_Get());
    if (found != NULL) {
        state->emitting[0] = *found;
    }
    state->n_emitting = found != NULL;
}

/* ---- calling handlers ------------------------------------------------------------------------ */

bool
aeb_is_awaitable(PyObject *obj)
{
    PyAsyncMethods *async = Py_TYPE(obj)->tp_as_async;
    if (async != NULL && async->am_await != NULL) {
        return true;
    }
    if (PyGen_CheckExact(obj)) { /* a generator made by a types.coroutine function */
        PyObject *code = PyObject_GetAttrString(obj, "gi_code");
        if (code == NULL) {
            PyErr_Clear();
            return false;
        }
        bool result = PyCode_Check(code) && (aeb_code_flags(code) & CO_ITERABLE_COROUTINE) != 0;
        Py_DECREF(code);
        return result;
    }
    return false;
}

static inline PyObject *
call_in_form(PyObject *handler, aeb_form form, const aeb_occasion *occasion)
{
    /* The slot in front of the arguments is the callee's to use: a bound method puts self there. */
    PyObject *stack[3] = {NULL, occasion->payload, NULL};
    size_t n_args = 1;
    if (form == AEB_FORM_NAME_PAYLOAD) {
        stack[1] = occasion->name;
        stack[2] = occasion->payload;
        n_args = 2;
    }
    else if (AEB_UNLIKELY(form == AEB_FORM_EVENT)) {
        stack[1] = occasion->event;
    }
    n_args |= PY_VECTORCALL_ARGUMENTS_OFFSET;
    if (AEB_LIKELY(PyFunction_Check(handler))) {
        /* Most handlers are Python functions: go where PyObject_Vectorcall would arrive. */
        return ((PyFunctionObject *)handler)->vectorcall(handler, stack + 1, n_args, NULL);
    }
    return PyObject_Vectorcall(handler, stack + 1, n_args, NULL);
}

int
aeb_close_awaitable(aeb_state *state, PyObject *obj)
{
    PyObject *close = PyObject_GetAttr(obj, state->str_close);
    if (close == NULL && PyErr_ExceptionMatches(PyExc_MemoryError)) {
        return -1; /* there may be something to close */
    }
    if (close == NULL) {
        return aeb_clear_ordinary_exception(); /* a future or an iterator: nothing to close */
    }
    PyObject *answer = PyObject_CallNoArgs(close);
    Py_DECREF(close);
    Py_XDECREF(answer);
    return answer == NULL ? -1 : 0;
}

PyObject *
aeb_call_handler(aeb_subscription *sub, aeb_form form, const aeb_occasion *occasion)
{
    (void)AEB_ADD(sub->calls, 1);
    return call_in_form(sub->handler, form, occasion);
}

int
aeb_call_any_handler(aeb_subscription *sub, aeb_form form, const aeb_occasion *occasion,
                     PyObject **result)
{
    PyObject *handler = aeb_subscription_handler(sub);
    *result = NULL;
    if (handler == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    (void)AEB_ADD(sub->calls, 1);
    *result = call_in_form(handler, form, occasion);
    Py_DECREF(handler);
    return *result == NULL ? -1 : 1;
}

int
aeb_add_late(PyObject **late, Py_ssize_t index, PyObject *awaitable, uint64_t took)
{
    if (*late == NULL) {
        *late = PyList_New(0);
        if (*late == NULL) {
            return -1;
        }
    }
    PyObject *item = Py_BuildValue("(nOK)", index, awaitable, (unsigned long long)took);
    if (item == NULL) {
        return -1;
    }
    int status = PyList_Append(*late, item);
    Py_DECREF(item);
    return status;
}

int
aeb_dispatch_prepare(aeb_bus *bus, const aeb_plan *plan, aeb_occasion *occasion)
{
    if (plan->check != NULL) {
        /* Only now, for an event that is refused takes no number. */
        if (aeb_schema_check(plan->check, occasion->name, occasion->payload) < 0) {
            return -1;
        }
        occasion->seq = aeb_take_number(bus, plan);
    }
    /* Before any handler runs, for the Event's time stamp is the emission's. */
    bool envelope = plan->flags & AEB_PLAN_ENVELOPE;
    if (plan->flags & AEB_PLAN_RECORDED) {
        return aeb_history_record(bus, occasion, envelope);
    }
    if (envelope) {
        occasion->event =
            aeb_event_new(bus->state, occasion->name, occasion->payload, occasion->seq);
        if (occasion->event == NULL) {
            return -1;
        }
    }
    return 0;
}

Py_ssize_t
aeb_dispatch_sync(aeb_bus *bus, aeb_plan *plan, aeb_occasion *occasion, bool nested,
                  PyObject **late)
{
    Py_ssize_t called = 0;
    if (AEB_UNLIKELY(plan->flags & AEB_PLAN_CAREFUL)) {
        return aeb_dispatch_carefully(bus, plan, occasion, nested, late);
    }
    int status = 0;
    for (Py_ssize_t i = 0; i < plan->n_sync; i++) {
        aeb_plan_entry *entry = &plan->entries[i];
        if (!aeb_registry_claim(entry->sub)) {
            continue;
        }
        called++;
        PyObject *result = aeb_call_handler(entry->sub, entry->form, occasion);
        if (AEB_LIKELY(result == Py_None)) {
            Py_DECREF(result);
            continue;
        }
        if (result == NULL) {
            status = aeb_report_failure(bus, entry->sub, occasion->name, nested);
        }
        else {
            status = aeb_is_awaitable(result) ? aeb_add_late(late, i, result, 0) : 0;
            Py_DECREF(result);
        }
        if (status < 0) {
            break;
        }
    }
    (void)AEB_ADD(bus->n_delivered, (uint64_t)called);
    return status < 0 ? -1 : called;
}
