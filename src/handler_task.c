/* The coroutine that one async delivery runs as, and the task that drives it.
 *
 * An async handler runs in a task of its own.  What the task drives is not the handler's coroutine
 * but this object, which calls the handler, forwards every step to what it returned, isolates and
 * reports its failure, and tells its owner (an emission, or the bus for what `emit` scheduled) when
 * it is over.  So no done-callback is needed, and a handler's error never reaches the task.
 *
 * Its first step may be taken before its task runs (see handler_start.c).  What the handler yielded
 * then waits in `yielded` and is handed to the task's own first step as if it had only just been
 * yielded; and a handler that is over by then answers that step with its end.
 *
 * Invariant: `settled` is called exactly once, on the way to AEB_HANDLER_DONE, after which nothing
 * of the handler is referred to any more.  The loop's thread is the only one that runs steps.
 */
#include "handler_task.h"

#include "aio.h"
#include "coroutine.h"
#include "offload.h"
#include "permit.h"
#include "report.h"
#include "starter.h"
#include "timeout.h"

/* ---- making and keeping them ----------------------------------------------------------------- */

aeb_handler_task *
aeb_handler_task_new(aeb_bus *bus, const aeb_plan_entry *entry, aeb_occasion *occasion,
                     PyObject *awaitable)
{
    aeb_state *state = bus->state;
    aeb_handler_task *self;
    if (AEB_LIKELY(state->n_free_deliveries > 0)) {
        self = state->free_deliveries[--state->n_free_deliveries];
    }
    else {
        self = aeb_type_alloc(state->handler_task_type, 0);
        if (self == NULL) {
            return NULL;
        }
    }
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
    if (Py_REFCNT(self) != 1 || self->status != AEB_HANDLER_DONE || self->weakrefs != NULL ||
        self->live || state->n_free_deliveries >= AEB_MAX_FREE ||
        Py_TYPE(self) != state->handler_task_type) {
        Py_DECREF(self);
        return;
    }
    /* settle() has let go of everything else; what a handler is may be the last thing it does. */
    PyObject *kept[] = {(PyObject *)self->sub, self->name, self->payload, self->loop,
                        self->failure};
    memset((char *)self + sizeof(PyObject), 0, sizeof(aeb_handler_task) - sizeof(PyObject));
    self->state = state;
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

/* ---- how a delivery ends --------------------------------------------------------------------- */

bool
aeb_handler_task_settle(aeb_handler_task *self, PyObject *fatal)
{
    PyObject *inner = self->inner, *awaitable = self->awaitable, *context = self->context;
    PyObject *yielded = self->yielded, *task = self->task, *owner = self->owner;
    PyObject *payload = self->payload, *event = self->event, *parent = (PyObject *)self->parent;
    PyObject *bus = (PyObject *)self->bus;
    Py_INCREF(self); /* its owner may hold the last reference, and let go of it now */
    aeb_timeout_disarm(self);
    self->inner = self->awaitable = self->context = self->yielded = self->task = NULL;
    self->event = NULL;
    self->payload = Py_NewRef(Py_None); /* whoever keeps the task need not keep that */
    self->status = AEB_HANDLER_DONE;
    self->state->n_live -= self->live;
    self->live = false;
    bool taken = self->settled != NULL && self->settled(self, fatal);
    self->settled = NULL;
    self->owner = NULL;
    self->parent = NULL;
    aeb_permit_release(self);
    self->bus = NULL;
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
    Py_XDECREF(parent);
    Py_XDECREF(bus);
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

static PySendResult
handler_returned(aeb_handler_task *self, PyObject **result)
{
    if (AEB_UNLIKELY(self->timed_out) && /* it swallowed the cancellation, but that is no excuse */
        aeb_report_timeout(self->bus, self->sub, self->name, self->nested) < 0) {
        return handler_ended_fatally(self, result);
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
        answer = retrieve == NULL ? NULL
                                  : PyObject_CallMethodOneArg(
                                        task, state->str_add_done_callback, retrieve);
    }
    PyErr_Clear();
    Py_XDECREF(answer);
    Py_XDECREF(retrieve);
    Py_XDECREF(task);
    Py_XDECREF(loop);
}

/* The done-callback that does it. */
static PyObject *
handler_retrieve(aeb_handler_task *Py_UNUSED(self), PyObject *task)
{
    PyObject *answer = PyObject_CallMethod(task, "exception", NULL);
    if (answer == NULL) { /* it was cancelled as well */
        PyErr_Clear();
    }
    Py_XDECREF(answer);
    Py_RETURN_NONE;
}

/* The handler ended with the pending exception: isolates it, or leaves it for the task to raise. */
static PySendResult
handler_raised(aeb_handler_task *self, PyObject **result)
{
    aeb_bus *bus = self->bus;
    *result = NULL;
    self->status =
        AEB_HANDLER_RUNNING; /* a log handler that closes the bus must not end it first */
    PyObject *exc;
    if (aeb_cancelled_error_pending(self->state)) {
        exc = aeb_take_exception();
        int status = 0;
        if (AEB_UNLIKELY(self->timed_out)) {
            status = aeb_report_timeout(bus, self->sub, self->name, self->nested);
        }
        else if (!self->cancel_requested) {
            status = aeb_report_cancelled(bus, self->sub, self->name, self->nested);
        }
        self->ended_cancelled = status == 0;
    }
    else {
        exc = aeb_take_exception();
        aeb_restore_exception_steal(Py_NewRef(exc));
        self->failed = aeb_report_failure(bus, self->sub, self->name, self->nested) == 0;
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
    aeb_restore_exception_steal(exc);
    return PYGEN_ERROR;
}

int
aeb_handler_task_fail(aeb_handler_task *self)
{
    PyObject *result;
    if (self->status == AEB_HANDLER_DONE) {
        return PyErr_ExceptionMatches(PyExc_Exception)
                   ? (PyErr_WriteUnraisable((PyObject *)self), 0)
                   : -1;
    }
    self->finished_early = true; /* a task that was half made may still take a step */
    PySendResult status = handler_raised(self, &result);
    Py_XDECREF(result);
    if (status == PYGEN_ERROR && (self->ended_cancelled || self->failed)) {
        Py_XSETREF(self->failure, self->failed ? aeb_take_exception() : NULL);
        PyErr_Clear();
        return 0;
    }
    return status == PYGEN_ERROR ? -1 : 0;
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
    if (self->awaitable == NULL && self->sub->bus == NULL && !self->sub->once) {
        return 0; /* removed before its turn; a once handler was claimed for this delivery */
    }
    /* In the handler's own context, so that it reaches every task that the handler makes. */
    self->state->n_live += !self->live;
    self->live = true;
    if (!self->untracked) {
        PyObject *token = PyContextVar_Set(self->state->current_handler, (PyObject *)self);
        if (token == NULL) {
            return -1;
        }
        Py_DECREF(token);
    }
    if (self->awaitable == NULL) {
        aeb_occasion occasion = {
            .name = self->name, .payload = self->payload, .event = self->event};
        self->called = true;
        PyObject *value = AEB_UNLIKELY(self->sub->offload)
                              ? aeb_call_offloaded(self->state, self->sub, self->form, &occasion)
                              : aeb_call_handler(self->sub, self->form, &occasion);
        if (value == NULL) {
            return -1;
        }
        if (!aeb_is_awaitable(value)) {
            Py_DECREF(value);
            return 0;
        }
        self->awaitable = value;
    }
    self->inner = await_iterator(self->awaitable);
    if (self->inner == NULL) {
        return -1;
    }
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
        PyErr_Clear();
        aeb_restore_exception_steal(Py_NewRef(exc));
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
        self->status = AEB_HANDLER_SUSPENDED;
        return PYGEN_NEXT;
    case PYGEN_RETURN:
        Py_CLEAR(*result); /* a handler's return value has no reader */
        return handler_returned(self, result);
    default:
        return handler_raised(self, result);
    }
}

PySendResult
aeb_handler_task_step(aeb_handler_task *self, PyObject *value, PyObject *exc, PyObject **result)
{
    PySendResult sent;
    PyObject *context = Py_XNewRef(self->context);
    if (context != NULL && PyContext_Enter(context) < 0) {
        Py_DECREF(context);
        return handler_raised(self, result);
    }
    bool begin = self->status == AEB_HANDLER_NEW;
    bool limited = begin && self->sub->timeout > 0.0;
    double start = 0.0;
    if (AEB_UNLIKELY(limited)) {
        start = aeb_timeout_clock(self);
    }
    self->status = AEB_HANDLER_RUNNING;
    int begun = begin ? handler_begin(self) : 1;
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
    if (context != NULL) {
        PyObject *raised = aeb_take_exception();
        if (PyContext_Exit(context) < 0) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        aeb_restore_exception_steal(raised);
        Py_DECREF(context);
    }
    sent = aeb_handler_task_stepped(self, sent, result);
    if (AEB_UNLIKELY(limited) && sent == PYGEN_NEXT) {
        aeb_timeout_arm(self, start);
    }
    return sent;
}

/* The answer to a step after the end: what the task has not been told yet, or an error. */
static PySendResult
handler_after_end(aeb_handler_task *self, PyObject **result)
{
    *result = NULL;
    if (!self->finished_early) {
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
        return PYGEN_ERROR;
    }
    self->finished_early = false;
    if (self->failure != NULL) {
        aeb_restore_exception_steal(self->failure);
        self->failure = NULL;
        return PYGEN_ERROR;
    }
    if (self->ended_cancelled) {
        PyErr_SetNone(self->state->cancelled_error);
        return PYGEN_ERROR;
    }
    *result = Py_NewRef(Py_None);
    return PYGEN_RETURN;
}

static PySendResult
handler_am_send(aeb_handler_task *self, PyObject *value, PyObject **result)
{
    *result = NULL;
    if (self->status == AEB_HANDLER_DONE) {
        return handler_after_end(self, result);
    }
    if (self->status == AEB_HANDLER_RUNNING) {
        PyErr_SetString(PyExc_ValueError, "coroutine already executing");
        return PYGEN_ERROR;
    }
    if (self->status == AEB_HANDLER_NEW && value != Py_None) {
        PyErr_SetString(PyExc_TypeError, AEB_FIRST_SEND);
        return PYGEN_ERROR;
    }
    if (self->yielded != NULL) {
        *result = self->yielded;
        self->yielded = NULL;
        return PYGEN_NEXT;
    }
    return aeb_handler_task_step(self, value, NULL, result);
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
    if (cancelled < 0) {
        PyErr_Clear(); /* not a future after all */
    }
    return cancelled > 0;
}

static PySendResult
handler_throw_exception(aeb_handler_task *self, PyObject *exc, PyObject **result)
{
    *result = NULL;
    switch (self->status) {
    case AEB_HANDLER_DONE:
        return handler_after_end(self, result);
    case AEB_HANDLER_RUNNING:
        PyErr_SetString(PyExc_ValueError, "coroutine already executing");
        return PYGEN_ERROR;
    case AEB_HANDLER_NEW:
        aeb_restore_exception_steal(Py_NewRef(exc));
        return handler_raised(self, result);
    case AEB_HANDLER_SUSPENDED:
        break;
    }
    if (self->yielded != NULL) {
        PyObject *yielded = self->yielded;
        self->yielded = NULL;
        if (PyErr_GivenExceptionMatches(exc, self->state->cancelled_error) &&
            cancel_yielded(self, yielded, exc)) {
            *result = yielded;
            return PYGEN_NEXT;
        }
        Py_DECREF(yielded);
    }
    return aeb_handler_task_step(self, Py_None, exc, result);
}

/* ---- the Python type ------------------------------------------------------------------------- */

/* The answer of send() or throw(): a value, or StopIteration without one, as we return None. */
static PyObject *
send_result(PySendResult status, PyObject *result_steal)
{
    if (status == PYGEN_RETURN) {
        Py_CLEAR(result_steal);
        PyErr_SetNone(PyExc_StopIteration);
    }
    return result_steal;
}

static PyObject *
handler_send(aeb_handler_task *self, PyObject *value)
{
    PyObject *result;
    PySendResult status = handler_am_send(self, value, &result);
    return send_result(status, result);
}

static PyObject *
handler_next(aeb_handler_task *self)
{
    return handler_send(self, Py_None);
}

static PyObject *
handler_throw(aeb_handler_task *self, PyObject *args)
{
    PyObject *exc = aeb_thrown_exception(args), *result;
    if (exc == NULL) {
        return NULL;
    }
    PySendResult status = handler_throw_exception(self, exc, &result);
    Py_DECREF(exc);
    return send_result(status, result);
}

static PyObject *
handler_close(aeb_handler_task *self, PyObject *Py_UNUSED(ignored))
{
    if (aeb_handler_task_close(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
handler_cancel(aeb_handler_task *self, PyObject *Py_UNUSED(ignored))
{
    if (!self->cancel_requested) { /* once is enough: it may be cleaning up */
        aeb_handler_task_cancel(self);
    }
    Py_RETURN_NONE;
}

/* The callback that its loop runs, where it could not be started at once. */
static PyObject *
handler_start(aeb_handler_task *self, PyObject *Py_UNUSED(ignored))
{
    if (self->status == AEB_HANDLER_NEW && self->task == NULL &&
        aeb_starter_start_alone(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
handler_expire(aeb_handler_task *self, PyObject *Py_UNUSED(ignored))
{
    return aeb_timeout_expire(self);
}

static PyObject *
handler_get_name(aeb_handler_task *self, void *Py_UNUSED(closure))
{
    return self->sub == NULL ? PyUnicode_FromString("") : aeb_handler_name(self->sub->handler);
}

static PyObject *
handler_get_running(aeb_handler_task *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(self->status == AEB_HANDLER_RUNNING);
}

static PyObject *
handler_get_suspended(aeb_handler_task *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(self->status == AEB_HANDLER_SUSPENDED);
}

/* cr_frame, cr_code and cr_await of the handler's own coroutine, for whoever inspects the task. */
static PyObject *
handler_get_inner(aeb_handler_task *self, void *attribute)
{
    if (self->inner != NULL && PyCoro_CheckExact(self->inner)) {
        return PyObject_GetAttrString(self->inner, (const char *)attribute);
    }
    Py_RETURN_NONE;
}

static PyMethodDef handler_methods[] = {
    {"send", AEB_METHOD(handler_send), METH_O, PyDoc_STR("One step of the coroutine.")},
    {"throw", AEB_METHOD(handler_throw), METH_VARARGS, PyDoc_STR("One step, with an exception.")},
    {"close", AEB_METHOD(handler_close), METH_NOARGS, PyDoc_STR("End it here.")},
    {"cancel", AEB_METHOD(handler_cancel), METH_NOARGS,
     PyDoc_STR("Ask its task, in its loop's thread, to cancel.")},
    {"_retrieve", AEB_METHOD(handler_retrieve), METH_O,
     PyDoc_STR("Look at how a task has ended.")},
    {"_start", AEB_METHOD(handler_start), METH_NOARGS, PyDoc_STR("Take its first step.")},
    {"_expire", AEB_METHOD(handler_expire), METH_NOARGS, PyDoc_STR("Its time is over.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef handler_getset[] = {
    {"__name__", (getter)handler_get_name, NULL, NULL, NULL},
    {"__qualname__", (getter)handler_get_name, NULL, NULL, NULL},
    {"cr_running", (getter)handler_get_running, NULL, NULL, NULL},
    {"cr_suspended", (getter)handler_get_suspended, NULL, NULL, NULL},
    {"cr_frame", (getter)handler_get_inner, NULL, NULL, "cr_frame"},
    {"cr_code", (getter)handler_get_inner, NULL, NULL, "cr_code"},
    {"cr_await", (getter)handler_get_inner, NULL, NULL, "cr_await"},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef handler_members[] = {
    {"event_name", T_OBJECT, offsetof(aeb_handler_task, name), READONLY, NULL},
    {"loop", T_OBJECT, offsetof(aeb_handler_task, loop), READONLY, NULL},
    {"task", T_OBJECT, offsetof(aeb_handler_task, task), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(aeb_handler_task, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static int
handler_traverse(aeb_handler_task *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->bus);
    Py_VISIT(self->sub);
    Py_VISIT(self->payload);
    Py_VISIT(self->event);
    Py_VISIT(self->awaitable);
    Py_VISIT(self->inner);
    Py_VISIT(self->context);
    Py_VISIT(self->yielded);
    Py_VISIT(self->failure);
    Py_VISIT(self->loop);
    Py_VISIT(self->timer);
    Py_VISIT(self->task);
    Py_VISIT(self->parent);
    Py_VISIT(self->owner);
    return 0;
}

/* Breaks cycles.  In the state DONE no method looks at what is cleared here. */
static int
handler_clear(aeb_handler_task *self)
{
    self->status = AEB_HANDLER_DONE;
    self->settled = NULL;
    self->state->n_live -= self->live;
    self->live = false;
    Py_CLEAR(self->owner);
    Py_CLEAR(self->failure);
    Py_CLEAR(self->inner);
    Py_CLEAR(self->awaitable);
    Py_CLEAR(self->yielded);
    Py_CLEAR(self->context);
    Py_CLEAR(self->loop);
    Py_CLEAR(self->timer);
    Py_CLEAR(self->task);
    Py_CLEAR(self->parent);
    return 0;
}

/* A coroutine that was made and never started would warn: it is closed. */
static void
handler_finalize(PyObject *obj)
{
    aeb_handler_task *self = (aeb_handler_task *)obj;
    aeb_permit_release(self); /* its loop has gone, and nobody else will */
    if (self->status != AEB_HANDLER_NEW || self->awaitable == NULL) {
        return;
    }
    (void)aeb_handler_task_settle(self, NULL);
}

static void
handler_dealloc(aeb_handler_task *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (PyObject_CallFinalizerFromDealloc((PyObject *)self) < 0) {
        return;
    }
    PyObject_GC_UnTrack(self);
    AEB_TRASHCAN_BEGIN(self, handler_dealloc)
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    (void)handler_clear(self);
    Py_CLEAR(self->event);
    Py_CLEAR(self->payload);
    Py_CLEAR(self->name);
    Py_CLEAR(self->sub);
    Py_CLEAR(self->bus);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
    AEB_TRASHCAN_END
}

PyDoc_STRVAR(handler_doc, "The coroutine that one async delivery runs as.");

static PyType_Slot handler_slots[] = {
    {Py_tp_doc, (void *)handler_doc},   {Py_tp_dealloc, handler_dealloc},
    {Py_tp_traverse, handler_traverse}, {Py_tp_clear, handler_clear},
    {Py_tp_finalize, handler_finalize}, {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, handler_next},     {Py_am_await, PyObject_SelfIter},
#if PY_VERSION_HEX >= 0x030A0000
    {Py_am_send, handler_am_send},
#endif
    {Py_tp_methods, handler_methods},   {Py_tp_getset, handler_getset},
    {Py_tp_members, handler_members},   {0, NULL},
};

static PyType_Spec handler_spec = {
    .name = "agent_event_bus._core.HandlerTask",
    .basicsize = sizeof(aeb_handler_task),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = handler_slots,
};

int
aeb_handler_task_init_type(PyObject *module, aeb_state *state)
{
    return aeb_state_add_type(module, &handler_spec, &state->handler_task_type, true);
}
