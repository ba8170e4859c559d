/* The coroutine that one async delivery runs as, and the task that drives it.
 *
 * An async handler runs in a task of its own.  What the task drives is not the handler's coroutine
 * but this object, which calls the handler, forwards every step to what it returned, isolates and
 * reports its failure, and tells its owner (an emission, or the bus for what `emit` scheduled) when
 * it is over.  So no done-callback is needed.  The failure then goes on to the task, for whoever asks
 * that how it ended; asyncio is kept from complaining that nobody did.
 *
 * Its first step may be taken before its task runs (see starter.c).  What the handler yielded
 * then waits in `yielded` and is handed to the task's own first step as if it had only just been
 * yielded; and a handler that is over by then answers that step with its end.
 *
 * Invariant: `settled` is called exactly once, on the way to AEB_HANDLER_DONE, after which nothing
 * of the handler is referred to any more.  The loop's thread is the only one that runs steps.
 */
#include "handler_task.h"

#include "coroutine.h"
#include "offload.h"
#include "outcome.h"
#include "timeout.h"
#include "timing.h"

/* ---- making and keeping them ----------------------------------------------------------------- */

aeb_handler_task *
aeb_handler_task_new(aeb_bus *bus, const aeb_plan_entry *entry, aeb_occasion *occasion,
                     PyObject *awaitable)
{
    aeb_state *state = bus->state;
    aeb_handler_task *self;
    aeb_outcome *outcome = NULL;
    if (AEB_UNLIKELY(occasion->outcomes != NULL)) {
        outcome = aeb_outcome_reserve(state, occasion->outcomes, entry->sub);
        if (outcome == NULL) {
            return NULL;
        }
    }
    if (AEB_LIKELY(state->n_free_deliveries > 0)) {
        self = state->free_deliveries[--state->n_free_deliveries];
        self->status = AEB_HANDLER_NEW;
    }
    else {
        self = aeb_type_alloc(state->handler_task_type, 0);
        if (self == NULL) {
            Py_XDECREF(outcome);
            return NULL;
        }
    }
    self->outcome = outcome;
    self->state = state;
    self->bus = (aeb_bus *)Py_NewRef((PyObject *)bus);
    self->sub = (aeb_subscription *)Py_NewRef((PyObject *)entry->sub);
    self->form = entry->form;
    self->name = Py_NewRef(occasion->name);
    self->payload = Py_NewRef(occasion->payload);
    self->event = entry->form == AEB_FORM_EVENT ? Py_NewRef(occasion->event) : NULL;
    self->awaitable = Py_XNewRef(awaitable);
    self->depth = 1;
    return self;
}

aeb_handler_task *
aeb_handler_task_new_idle(aeb_state *state)
{
    aeb_handler_task *self = aeb_type_alloc(state->handler_task_type, 0);
    if (self != NULL) {
        self->state = state;
        self->status = AEB_HANDLER_DONE;
    }
    return self;
}

void
aeb_handler_task_release(aeb_handler_task *self_steal)
{
    aeb_handler_task *self = self_steal;
    aeb_state *state = self->state;
    if (!AEB_HAS_GIL || Py_REFCNT(self) != 1 || AEB_LOAD(self->status) != AEB_HANDLER_DONE ||
        self->weakrefs != NULL || self->live || PyObject_GC_IsFinalized((PyObject *)self) ||
        state->n_free_deliveries >= AEB_MAX_FREE || Py_TYPE(self) != state->handler_task_type) {
        Py_DECREF(self);
        return;
    }
    /* settle() has let go of everything else; what a handler is may be the last thing it does. */
    PyObject *kept[] = {(PyObject *)self->sub, self->name, self->payload, self->loop,
                        self->failure};
    memset((char *)self + sizeof(PyObject), 0, sizeof(aeb_handler_task) - sizeof(PyObject));
    self->state = state;
    self->status = AEB_HANDLER_DONE; /* gc.get_objects() shows it to anybody */
    state->free_deliveries[state->n_free_deliveries++] = self;
    for (size_t i = 0; i < Py_ARRAY_LENGTH(kept); i++) {
        Py_XDECREF(kept[i]);
    }
}

void
aeb_handler_task_forget(aeb_state *state)
{
    while (state->n_free_deliveries > 0) {
        aeb_handler_task *self = state->free_deliveries[--state->n_free_deliveries];
        Py_DECREF(self);
    }
}

/* ---- steps ----------------------------------------------------------------------------------- */

/* The iterator that `await awaitable` would drive. */
static PyObject *
await_iterator(PyObject *awaitable)
{
    PyAsyncMethods *async = Py_TYPE(awaitable)->tp_as_async;
    if (PyCoro_CheckExact(awaitable) || PyGen_CheckExact(awaitable)) {
        return Py_NewRef(awaitable);
    }
    if (async == NULL || async->am_await == NULL) {
        PyErr_Format(PyExc_TypeError, "object %.100s cannot be awaited",
                     Py_TYPE(awaitable)->tp_name);
        return NULL;
    }
    PyObject *iterator = async->am_await(awaitable);
    if (iterator != NULL && (!PyIter_Check(iterator) || PyCoro_CheckExact(iterator))) {
        PyErr_Format(PyExc_TypeError, "__await__() returned %.100s, not an iterator",
                     Py_TYPE(iterator)->tp_name);
        Py_CLEAR(iterator);
    }
    return iterator;
}

/* Calls the handler unless it has been removed.  1: there is something to drive; 0: over; -1. */
static int
handler_begin(aeb_handler_task *self)
{
    if (self->awaitable == NULL && !aeb_subscription_is_active(self->sub) && !self->sub->once) {
        return 0; /* removed before its turn; a once handler was claimed for this delivery */
    }
    /* In the handler's own context, so that it reaches every task that the handler makes. */
    (void)AEB_ADD(self->state->n_live, !self->live);
    self->live = true;
    if (!self->untracked) {
        PyObject *token = PyContextVar_Set(self->state->current_handler, (PyObject *)self);
        if (token == NULL) {
            return -1;
        }
        Py_DECREF(token);
    }
    if (AEB_UNLIKELY(self->outcome != NULL)) {
        aeb_outcome_begin(self->outcome, self->took);
    }
    if (AEB_UNLIKELY(self->bus->plan_flags & AEB_PLAN_TIMED)) {
        if (aeb_timing_prepare(self->bus, self->sub) < 0) {
            return -1;
        }
        if (self->began == 0) { /* else starter.c has called it, and it returned this awaitable */
            self->began = aeb_monotonic_ns();
        }
    }
    if (self->awaitable == NULL) {
        (void)AEB_ADD(self->bus->n_delivered, 1);
        aeb_occasion occasion = {
            .name = self->name, .payload = self->payload, .event = self->event};
        PyObject *value;
        self->called = true; /* before the call, in which it may be closed */
        int called = AEB_UNLIKELY(self->sub->offload)
                         ? aeb_call_offloaded(self->state, self->sub, self->form, &occasion, &value)
                         : aeb_call_any_handler(self->sub, self->form, &occasion, &value);
        if (called < 0) {
            return -1;
        }
        if (called == 0) { /* it was held weakly and is gone */
            self->called = false;
            self->began = 0;
            (void)AEB_ADD(self->bus->n_delivered, -1);
            return 0;
        }
        if (!aeb_is_awaitable(value)) {
            if (self->outcome != NULL) {
                aeb_outcome_settle(self->outcome, AEB_ENDED_WELL, value);
            }
            Py_DECREF(value);
            return 0;
        }
        self->awaitable = value;
    }
    PyObject *iterator = await_iterator(self->awaitable);
    if (iterator == NULL) {
        return -1;
    }
    AEB_LOCK(self);
    self->inner = iterator;
    AEB_UNLOCK();
    Py_CLEAR(self->awaitable);
    return 1;
}

/* Throws `exc` into the handler where it is suspended. */
static PySendResult
throw_into_inner(aeb_handler_task *self, PyObject *exc, PyObject **result)
{
    PyObject *throw = PyObject_GetAttr(self->inner, self->state->str_throw);
    if (throw == NULL) {
        /* A plain iterator cannot be told: it is abandoned, and the error is its end. */
        if (aeb_clear_ordinary_exception() == 0) {
            aeb_restore_exception_steal(Py_NewRef(exc));
        }
        *result = NULL;
        return PYGEN_ERROR;
    }
    *result = PyObject_CallOneArg(throw, exc);
    Py_DECREF(throw);
    if (*result != NULL) {
        return PYGEN_NEXT;
    }
    *result = aeb_fetch_stop_iteration();
    return *result != NULL ? PYGEN_RETURN : PYGEN_ERROR;
}

PySendResult
aeb_handler_task_stepped(aeb_handler_task *self, PySendResult sent, PyObject **result)
{
    switch (sent) {
    case PYGEN_NEXT:
        AEB_STORE(self->status, AEB_HANDLER_SUSPENDED);
        return PYGEN_NEXT;
    case PYGEN_RETURN:
        if (AEB_UNLIKELY(self->outcome != NULL) && self->inner != NULL && !self->timed_out) {
            aeb_outcome_settle(self->outcome, AEB_ENDED_WELL, *result);
        }
        Py_CLEAR(*result); /* a handler's return value has no reader */
        return aeb_handler_task_returned(self, result);
    default:
        return aeb_handler_task_raised(self, result);
    }
}

/* One step of a claimed delivery: begins it, or sends `value`, or throws `exc` when it is not NULL. */
static PySendResult
take_step(aeb_handler_task *self, bool begins, PyObject *value, PyObject *exc, PyObject **result)
{
    PySendResult sent;
    PyObject *context = Py_XNewRef(self->context);
    if (context != NULL && PyContext_Enter(context) < 0) {
        Py_DECREF(context);
        return aeb_handler_task_raised(self, result);
    }
    bool limited = begins && self->sub->timeout > 0.0;
    double start = 0.0;
    if (AEB_UNLIKELY(limited)) {
        start = aeb_timeout_clock(self);
    }
    int begun = begins ? handler_begin(self) : 1;
    if (begun > 0) {
        /* close() from inside the handler's own code could drop the last reference to it. */
        PyObject *inner = Py_NewRef(self->inner);
        sent =
            exc != NULL ? throw_into_inner(self, exc, result) : aeb_iter_send(inner, value, result);
        Py_DECREF(inner);
    }
    else {
        *result = begun == 0 ? Py_NewRef(Py_None) : NULL;
        sent = begun == 0 ? PYGEN_RETURN : PYGEN_ERROR;
    }
    sent = aeb_handler_task_stepped(self, sent, result);
    if (context != NULL) { /* only now: a failure is reported in the handler's context */
        PyObject *raised = aeb_take_exception();
        if (PyContext_Exit(context) < 0) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        aeb_restore_exception_steal(raised);
        Py_DECREF(context);
    }
    if (AEB_UNLIKELY(limited) && sent == PYGEN_NEXT) {
        aeb_timeout_arm(self, start);
    }
    return sent;
}

/* The answer to a step after the end: what the task has not been told yet, or an error. */
static PySendResult
handler_after_end(aeb_handler_task *self, PyObject **result)
{
    PyObject *failure;
    bool early;
    *result = NULL;
    AEB_LOCK(self);
    early = self->finished_early;
    failure = self->failure;
    self->finished_early = false;
    self->failure = early ? NULL : failure;
    AEB_UNLOCK();
    if (!early) {
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
        return PYGEN_ERROR;
    }
    if (failure != NULL) {
        aeb_restore_exception_steal(failure);
        return PYGEN_ERROR;
    }
    if (self->ended_cancelled) {
        PyErr_SetNone(self->state->cancelled_error);
        return PYGEN_ERROR;
    }
    *result = Py_NewRef(Py_None);
    return PYGEN_RETURN;
}

/* The answer to a step that cannot be taken. */
static PySendResult
handler_refuses(aeb_handler_task *self, bool misused, PyObject **result)
{
    if (misused) {
        PyErr_SetString(PyExc_TypeError, AEB_FIRST_SEND);
        return PYGEN_ERROR;
    }
    if (AEB_IS_OVER(self)) {
        return handler_after_end(self, result);
    }
    PyErr_SetString(PyExc_ValueError, "coroutine already executing");
    return PYGEN_ERROR;
}

PySendResult
aeb_handler_task_send(aeb_handler_task *self, PyObject *value, PyObject **result)
{
    bool begins = false, claimed = false, misused;
    PyObject *yielded = NULL;
    AEB_LOCK(self);
    misused = AEB_LOAD(self->status) == AEB_HANDLER_NEW && value != Py_None;
    if (AEB_LOAD(self->status) == AEB_HANDLER_SUSPENDED) {
        yielded = self->yielded;
        self->yielded = NULL;
    }
    if (yielded == NULL && !misused) {
        claimed = aeb_handler_task_claim_locked(self, &begins);
    }
    AEB_UNLOCK();
    *result = yielded;
    if (yielded != NULL) {
        return PYGEN_NEXT;
    }
    if (AEB_LIKELY(claimed)) {
        return take_step(self, begins, value, NULL, result);
    }
    return handler_refuses(self, misused, result);
}

/* A cancellation that arrives between the early step and the task's own first step: do what
 * Task.cancel() does for a task that waits for a future.  True when the future took it. */
static bool
cancel_yielded(aeb_handler_task *self, PyObject *yielded, PyObject *exc)
{
    int cancelled = -1;
    PyObject *message = ((PyBaseExceptionObject *)exc)->args, *answer;
    if (message != NULL && PyTuple_GET_SIZE(message) > 0) {
        answer = PyObject_CallMethodOneArg(yielded, self->state->str_cancel,
                                           PyTuple_GET_ITEM(message, 0));
    }
    else {
        answer = PyObject_CallMethodNoArgs(yielded, self->state->str_cancel);
    }
    if (answer != NULL) {
        cancelled = PyObject_IsTrue(answer);
        Py_DECREF(answer);
    }
    if (cancelled < 0 && aeb_clear_ordinary_exception() < 0) { /* else not a future after all */
        PyErr_WriteUnraisable(yielded);
    }
    return cancelled > 0;
}

PySendResult
aeb_handler_task_throw(aeb_handler_task *self, PyObject *exc, PyObject **result)
{
    bool begins, claimed;
    PyObject *yielded = NULL;
    *result = NULL;
    AEB_LOCK(self);
    claimed = aeb_handler_task_claim_locked(self, &begins);
    if (claimed) {
        yielded = self->yielded;
        self->yielded = NULL;
    }
    AEB_UNLOCK();
    if (!claimed) {
        return handler_refuses(self, false, result);
    }
    if (begins) {
        aeb_restore_exception_steal(Py_NewRef(exc));
        return aeb_handler_task_raised(self, result);
    }
    if (yielded != NULL) {
        if (PyErr_GivenExceptionMatches(exc, self->state->cancelled_error) &&
            cancel_yielded(self, yielded, exc)) {
            AEB_STORE(self->status, AEB_HANDLER_SUSPENDED);
            *result = yielded;
            return PYGEN_NEXT;
        }
        Py_DECREF(yielded);
        if (AEB_LOAD(self->status) == AEB_HANDLER_DONE) { /* the future's own code has closed it */
            return handler_after_end(self, result);
        }
    }
    return take_step(self, false, Py_None, exc, result);
}
