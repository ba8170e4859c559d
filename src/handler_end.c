/* How a delivery ends: what it tells its owner, the log and its task.
 *
 * Whatever ends one comes through aeb_handler_task_settle(), once.  Before that the handler's failure is
 * reported, or where its owner has to be told (a guard, and what is collected) handed to that instead.
 * An error that must not be isolated is the owner's to raise, and the task's where nobody takes it.
 */
#include "aio.h"
#include "coroutine.h"
#include "handler_task.h"
#include "outcome.h"
#include "permit.h"
#include "report.h"
#include "timeout.h"
#include "timing.h"

/* It is over, and its handler was measured. */
AEB_NOINLINE void
measured(aeb_handler_task *self)
{
    self->took += aeb_timing_lap(&self->began);
    aeb_timing_note(self->sub, NULL, self->took);
}

bool
aeb_handler_task_settle(aeb_handler_task *self, PyObject *fatal)
{
    PyObject *inner, *awaitable, *context, *yielded, *task, *payload, *event, *outcome;
    PyObject *owner = self->owner, *parent = (PyObject *)self->parent;
    aeb_bus *bus = self->bus;
    Py_INCREF(self); /* its owner may hold the last reference, and let go of it now */
    aeb_timeout_disarm(self);
    AEB_LOCK(self);
    inner = self->inner;
    awaitable = self->awaitable;
    context = self->context;
    yielded = self->yielded;
    task = self->task;
    payload = self->payload;
    event = self->event;
    outcome = (PyObject *)self->outcome;
    self->inner = self->awaitable = self->context = self->yielded = self->task = NULL;
    self->event = NULL;
    self->outcome = NULL;
    self->payload = Py_NewRef(Py_None); /* whoever keeps the task need not keep that */
    AEB_STORE(self->status, AEB_HANDLER_DONE);
    AEB_UNLOCK();
    (void)AEB_ADD(self->state->n_live, -(Py_ssize_t)self->live);
    self->live = false;
    if (AEB_UNLIKELY(self->began != 0)) {
        measured(self);
    }
    bool taken = self->settled != NULL && self->settled(self, fatal);
    AEB_LOCK(self);
    self->settled = NULL;
    self->owner = NULL;
    self->parent = NULL;
    AEB_UNLOCK();
    aeb_permit_release(self);
    AEB_LOCK(self);
    self->bus = NULL;
    AEB_UNLOCK();
    if (awaitable != NULL) { /* never started: a coroutine would warn that nobody awaited it */
        PyObject *exc = aeb_take_exception();
        if (aeb_close_awaitable(self->state, awaitable) < 0) {
            PyErr_WriteUnraisable(awaitable);
        }
        aeb_restore_exception_steal(exc);
        Py_DECREF(awaitable);
    }
    Py_XDECREF(payload);
    Py_XDECREF(event);
    Py_XDECREF(outcome);
    Py_XDECREF(parent);
    Py_XDECREF((PyObject *)bus);
    Py_XDECREF(yielded);
    Py_XDECREF(inner);
    Py_XDECREF(context);
    Py_XDECREF(task);
    Py_XDECREF(owner);
    Py_DECREF(self);
    return taken;
}

/* The pending error must not be isolated: the owner takes it, or the task raises it. */
static PySendResult
handler_ended_fatally(aeb_handler_task *self, PyObject **result)
{
    PyObject *fatal = aeb_take_exception();
    if (aeb_handler_task_settle(self, fatal)) {
        Py_DECREF(fatal);
        *result = Py_NewRef(Py_None);
        return PYGEN_RETURN;
    }
    aeb_restore_exception_steal(fatal);
    return PYGEN_ERROR;
}

/* Whether its owner has to be told how it ended, and not the log. */
static inline bool
concerns_owner(const aeb_handler_task *self)
{
    return AEB_UNLIKELY(self->outcome != NULL || self->sub->guard) &&
           (self->outcome != NULL || (self->owner != NULL && !AEB_LOAD(self->cancel_requested)));
}

/* Tells the owner how the delivery ended, with `exc`, which is accounted for: by its outcome, or by
 * raising it if it is the first guard that fails.  Ends the delivery.  Never raises. */
static void
tell_owner(aeb_handler_task *self, aeb_ending ending, PyObject *exc)
{
    bool guard = self->sub->guard && self->owner != NULL && !AEB_LOAD(self->cancel_requested);
    bool collected = self->outcome != NULL;
    aeb_bus *bus = (aeb_bus *)Py_NewRef((PyObject *)self->bus);
    if (collected) {
        aeb_outcome_settle(self->outcome, ending, exc);
    }
    bool taken = aeb_handler_task_settle(self, guard ? exc : NULL);
    if (!collected && !taken) { /* another one was first, or the emission has been closed */
        int status = ending == AEB_ENDED_CANCELLED
                         ? aeb_report_cancelled(bus, self->sub, self->name, self->nested)
                         : aeb_report_accounted(bus, self->sub, self->name, exc, self->nested);
        if (status < 0) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
    }
    Py_DECREF(bus);
}

PySendResult
aeb_handler_task_returned(aeb_handler_task *self, PyObject **result)
{
    if (AEB_UNLIKELY(self->timed_out)) { /* it swallowed the cancellation, but that is no excuse */
        if (concerns_owner(self)) {
            PyObject *exc = aeb_account_timeout(self->sub);
            if (exc == NULL) {
                return handler_ended_fatally(self, result);
            }
            tell_owner(self, AEB_TIMED_OUT, exc);
            Py_DECREF(exc);
            *result = Py_NewRef(Py_None);
            return PYGEN_RETURN;
        }
        if (aeb_report_timeout(self->bus, self->sub, self->name, self->nested) < 0) {
            return handler_ended_fatally(self, result);
        }
    }
    (void)aeb_handler_task_settle(self, NULL);
    *result = Py_NewRef(Py_None);
    return PYGEN_RETURN;
}

/* The task is about to be told of a failure that has been reported already: sees to it that it does
 * not complain when nobody asks it.  Tasks of lazy_task.c need no callback for that.  Never raises. */
static void
have_failure_retrieved(aeb_handler_task *self)
{
    aeb_state *state = self->state;
    PyObject *loop = NULL, *task = Py_XNewRef(self->task), *retrieve = NULL, *answer = NULL;
    if (self->lazy) {
        Py_XDECREF(task);
        return;
    }
    if (task == NULL && aeb_aio_running_loop(state, &loop) == 0 && loop != NULL) {
        (void)aeb_aio_current_task(state, loop, &task); /* an eager one, in its first step */
    }
    if (task != NULL) {
        retrieve = PyObject_GetAttrString((PyObject *)self, "_retrieve");
        answer = retrieve == NULL
                     ? NULL
                     : PyObject_CallMethodOneArg(task, state->str_add_done_callback, retrieve);
    }
    PyErr_Clear();
    Py_XDECREF(answer);
    Py_XDECREF(retrieve);
    Py_XDECREF(task);
    Py_XDECREF(loop);
}

/* The handler ended with the pending exception, and its owner has to be told. */
static PySendResult
handler_raised_to_owner(aeb_handler_task *self, PyObject **result)
{
    aeb_ending ending = aeb_account_ending(self->bus, self->sub, self->nested, self->timed_out);
    if (ending == AEB_ENDED_FATALLY) {
        return handler_ended_fatally(self, result);
    }
    PyObject *exc = aeb_take_exception(), *told = Py_NewRef(exc);
    if (ending == AEB_ENDED_CANCELLED && self->timed_out) {
        PyObject *timeout = aeb_account_timeout(self->sub);
        if (timeout == NULL) {
            Py_DECREF(told);
            Py_DECREF(exc);
            return handler_ended_fatally(self, result);
        }
        ending = AEB_TIMED_OUT;
        Py_SETREF(told, timeout);
    }
    self->failed = ending == AEB_FAILED;
    self->ended_cancelled = !self->failed;
    if (self->failed) {
        have_failure_retrieved(self);
    }
    tell_owner(self, ending, told);
    Py_DECREF(told);
    aeb_raise_in_coroutine_steal(exc);
    return PYGEN_ERROR;
}

PySendResult
aeb_handler_task_raised(aeb_handler_task *self, PyObject **result)
{
    aeb_bus *bus = self->bus;
    PyObject *exc;
    *result = NULL;
    /* A log handler that closes the bus must not end it first. */
    AEB_STORE(self->status, AEB_HANDLER_RUNNING);
    aeb_report_expect_exception();
    if (concerns_owner(self)) {
        return handler_raised_to_owner(self, result);
    }
    if (aeb_cancelled_error_pending(self->state)) {
        exc = aeb_take_exception();
        int status = 0;
        if (AEB_UNLIKELY(self->timed_out)) {
            status = aeb_report_timeout(bus, self->sub, self->name, self->nested);
        }
        else {
            (void)AEB_ADD(bus->n_cancelled, 1);
            if (!AEB_LOAD(self->cancel_requested)) {
                status = aeb_report_cancelled(bus, self->sub, self->name, self->nested);
            }
        }
        self->ended_cancelled = status == 0;
    }
    else {
        exc = aeb_take_exception();
        aeb_restore_exception_steal(Py_NewRef(exc));
        self->failed = (AEB_UNLIKELY(self->timed_out)
                            ? aeb_report_late_failure
                            : aeb_report_failure)(bus, self->sub, self->name, self->nested) == 0;
        if (self->failed) {
            have_failure_retrieved(self);
        }
    }
    if (!self->ended_cancelled && !self->failed) {
        Py_DECREF(exc);
        return handler_ended_fatally(self, result);
    }
    /* It goes on to the task, which is cancelled or failed to whoever asks how it ended. */
    (void)aeb_handler_task_settle(self, NULL);
    aeb_raise_in_coroutine_steal(exc);
    return PYGEN_ERROR;
}

int
aeb_handler_task_fail(aeb_handler_task *self)
{
    PyObject *result;
    bool claimed, begins;
    AEB_LOCK(self);
    claimed = aeb_handler_task_claim_locked(self, &begins);
    self->finished_early |= claimed; /* a task that was half made may still take a step */
    AEB_UNLOCK();
    if (!claimed) { /* it is over, or another thread is ending it or has begun it after all */
        return PyErr_ExceptionMatches(PyExc_Exception)
                   ? (PyErr_WriteUnraisable((PyObject *)self), 0)
                   : -1;
    }
    PySendResult status = aeb_handler_task_raised(self, &result);
    Py_XDECREF(result);
    if (status == PYGEN_ERROR && (self->ended_cancelled || self->failed)) {
        PyObject *failure = self->failed ? aeb_take_exception() : NULL, *before;
        PyErr_Clear();
        AEB_LOCK(self);
        before = self->failure;
        self->failure = failure;
        AEB_UNLOCK();
        Py_XDECREF(before);
        return 0;
    }
    return status == PYGEN_ERROR ? -1 : 0;
}
