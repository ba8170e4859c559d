/* Starting, cancelling and closing the deliveries that handler_task.c describes.
 *
 * The first step of an emit_async delivery is taken at once: a handler that does not suspend costs
 * no turn of the loop.  A starter takes these steps for one emission after another under the tasks
 * of lazy_task.c: it enters such a task as the loop's current one, in place of the task that emits,
 * and steps the delivery in a context of its own; while handlers finish at once one task serves them
 * all.  Where there are no such tasks the delivery gets an asyncio.Task, an eager one from 3.12 on,
 * and a loop with its own task factory gets that called.
 *
 * All steps of a delivery must run in one context.  From 3.11 on a task can be given one; before,
 * the delivery enters its context around every step.
 */
#include "aio.h"
#include "handler_task.h"
#include "lazy_task.h"
#include "report.h"

/* ---- which deliveries there are -------------------------------------------------------------- */

int
aeb_next_delivery(aeb_bus *bus, aeb_plan *plan, aeb_occasion *occasion, PyObject *late,
                  aeb_async_cursor *cursor, aeb_handler_task **delivery)
{
    Py_ssize_t n_late = late == NULL ? 0 : PyList_GET_SIZE(late);
    while (cursor->next_entry < plan->n_entries || cursor->next_late < n_late) {
        aeb_plan_entry *entry = NULL;
        PyObject *awaitable = NULL;
        if (cursor->next_entry < plan->n_entries) {
            entry = &plan->entries[cursor->next_entry];
        }
        if (cursor->next_late < n_late) {
            PyObject *pair = PyList_GET_ITEM(late, cursor->next_late);
            aeb_plan_entry *other = &plan->entries[PyLong_AsSsize_t(PyTuple_GET_ITEM(pair, 0))];
            if (entry == NULL || aeb_subscription_before(other->sub, entry->sub)) {
                entry = other;
                awaitable = PyTuple_GET_ITEM(pair, 1);
            }
        }
        if (awaitable == NULL) {
            cursor->next_entry++;
            if (!aeb_registry_claim(entry->sub)) {
                continue;
            }
        }
        *delivery = aeb_handler_task_new(bus, entry, occasion, awaitable);
        if (*delivery == NULL) {
            return -1;
        }
        cursor->next_late += awaitable != NULL;
        return 1;
    }
    return 0;
}

void
aeb_close_late(aeb_state *state, PyObject *late, Py_ssize_t i)
{
    PyObject *exc = aeb_take_exception();
    for (; late != NULL && i < PyList_GET_SIZE(late); i++) {
        PyObject *awaitable = PyTuple_GET_ITEM(PyList_GET_ITEM(late, i), 1);
        if (aeb_close_awaitable(state, awaitable) < 0) {
            PyErr_WriteUnraisable(awaitable);
        }
    }
    aeb_restore_exception_steal(exc);
}

/* ---- tasks ----------------------------------------------------------------------------------- */

/* The delivery that runs directly under the current task, or NULL. */
static int
delivery_of_current_task(aeb_state *state, PyObject *task, aeb_handler_task **found)
{
    PyObject *loop = NULL, *current = Py_XNewRef(task);
    if (state->lazy_task_type == NULL) {
        return 0;
    }
    if (current == NULL && (aeb_aio_running_loop(state, &loop) < 0 ||
                            (loop != NULL && aeb_aio_current_task(state, loop, &current) < 0))) {
        Py_XDECREF(loop);
        return -1;
    }
    *found = (aeb_handler_task *)Py_XNewRef((PyObject *)aeb_task_delivery(state, current));
    Py_XDECREF(current);
    Py_XDECREF(loop);
    return 0;
}

/* A delivery puts itself into its handler's context only where another one is unfinished or its
 * task is not of our kind (handler_begin), for that is dear.  So what is found there is the answer,
 * unless it is over; and where nothing is found the current task may tell.  The first handler in a
 * chain is missed by the tasks that it makes: aeb_handler_task_base_depth() allows for it. */
int
aeb_handler_task_current(aeb_state *state, PyObject *task, aeb_handler_task **found)
{
    PyObject *value;
    *found = NULL;
    if (AEB_LIKELY(state->n_live == 0) || state->current_handler == NULL) {
        return 0;
    }
    if (PyContextVar_Get(state->current_handler, NULL, &value) < 0) {
        return -1;
    }
    *found = (aeb_handler_task *)value;
    if (value == NULL || (*found)->status == AEB_HANDLER_DONE) {
        *found = NULL;
        Py_XDECREF(value); /* the handler is over, and this is a task that it left behind */
        if (delivery_of_current_task(state, task, found) < 0) {
            return -1;
        }
    }
    if (*found != NULL && (*found)->status == AEB_HANDLER_DONE) {
        Py_CLEAR(*found);
    }
    return 0;
}

Py_ssize_t
aeb_handler_task_base_depth(aeb_state *state, const aeb_handler_task *parent)
{
    return parent != NULL ? parent->depth : state->n_live > 0;
}

/* How many handlers that are not over are waiting in a row, from `task` up. */
static Py_ssize_t
live_depth(const aeb_handler_task *task)
{
    Py_ssize_t depth = 0;
    for (; task != NULL; task = task->parent) {
        if (task->status != AEB_HANDLER_DONE) {
            depth += task->parent != NULL ? 1 : task->depth; /* see aeb_handler_task_base_depth() */
        }
    }
    return depth;
}

int
aeb_handler_task_check_depth(const aeb_handler_task *task)
{
    Py_ssize_t limit = Py_GetRecursionLimit();
    /* The depth on record also counts handlers that ended while what they began went on. */
    if (task->depth >= limit && live_depth(task) >= limit) {
        PyErr_SetString(PyExc_RecursionError,
                        "maximum recursion depth exceeded in nested emit_async");
        return -1;
    }
    return 0;
}

/* 0, or -1 when the task could not be made. */
static int
start_task(aeb_handler_task *self, PyObject *loop, bool eager)
{
    aeb_state *state = self->state;
    PyObject *task = NULL, *name = NULL;
    if (aeb_aio_load(state) < 0) {
        return -1;
    }
    if (self->loop == NULL) {
        self->loop = Py_NewRef(loop);
    }
    PyObject *factory;
    if (aeb_aio_task_factory(state, loop, &factory) < 0) {
        return -1;
    }
    if (factory == NULL && !eager && state->lazy_task_type != NULL) {
        self->lazy = true;
        task = aeb_task_new(self);
    }
    else if ((name = aeb_handler_task_name(self)) != NULL) {
        task = aeb_aio_new_task(state, loop, (PyObject *)self, name, factory != NULL,
                                eager ? AEB_TASK_EAGER : AEB_TASK_LATER);
    }
    Py_XDECREF(name);
    Py_XDECREF(factory);
    if (task == NULL) {
        return -1;
    }
    if (self->status != AEB_HANDLER_DONE) {
        self->task = Py_NewRef(task);
        if (self->cancel_requested) { /* during its first step, which an eager task took */
            aeb_handler_task_cancel(self);
        }
    }
    Py_DECREF(task);
    return 0;
}

static int
started(aeb_handler_task *self, int status)
{
    return status < 0 ? aeb_handler_task_fail(self) : 0;
}

int
aeb_handler_task_start(aeb_handler_task *self, PyObject *loop)
{
    Py_INCREF(self);
    int status = started(self, start_task(self, loop, false));
    Py_DECREF(self);
    return status;
}

/* ---- first steps ----------------------------------------------------------------------------- */

/* Makes `task` (NULL: none) the current one of the loop in place of the starter's, or of the one
 * that emits when it has none yet; that one is returned in *previous, new, NULL for none. */
static int
switch_task(aeb_starter *starter, PyObject *task, PyObject **previous)
{
    aeb_state *state = starter->state;
    PyObject *loop = starter->loop;
#if PY_VERSION_HEX >= 0x030C0000
    PyObject *args[] = {loop, task == NULL ? Py_None : task};
    *previous = PyObject_Vectorcall(state->swap_task, args, 2, NULL);
    if (*previous == NULL) {
        return -1;
    }
    if (*previous == Py_None) {
        Py_CLEAR(*previous);
    }
    return 0;
#else
    PyObject *answer;
    if (aeb_aio_current_task(state, loop, previous) < 0) {
        return -1;
    }
    if (*previous != NULL) {
        answer = PyObject_CallFunctionObjArgs(state->leave_task, loop, *previous, NULL);
        if (answer == NULL) {
            Py_CLEAR(*previous);
            return -1;
        }
        Py_DECREF(answer);
    }
    if (task != NULL) {
        answer = PyObject_CallFunctionObjArgs(state->enter_task, loop, task, NULL);
        if (answer == NULL) {
            Py_CLEAR(*previous);
            return -1;
        }
        Py_DECREF(answer);
    }
    return 0;
#endif
}

/* Enters a blank task as the current one. */
static int
enter_blank_task(aeb_starter *starter)
{
    PyObject *previous, *task = aeb_task_take(starter->state);
    if (task == NULL) {
        return -1;
    }
    if (switch_task(starter, task, &previous) < 0) {
        aeb_task_give_back(starter->state, task);
        return -1;
    }
    if (starter->task == NULL) {
        starter->outer = previous;
    }
    else {
        Py_XDECREF(previous);
        Py_DECREF(starter->task);
    }
    starter->task = task;
    starter->spent = false;
    starter->references = Py_REFCNT(task);
    return 0;
}

int
aeb_starter_begin(aeb_starter *starter, aeb_state *state, PyObject *loop)
{
    PyObject *factory = NULL;
    *starter = (aeb_starter){.state = state, .loop = loop};
    if (state->lazy_task_type == NULL) {
        return 0;
    }
    if (aeb_aio_task_factory(state, loop, &factory) < 0) {
        return -1;
    }
    starter->lazy = factory == NULL;
    Py_XDECREF(factory);
    return starter->lazy ? enter_blank_task(starter) : 0;
}

void
aeb_starter_end(aeb_starter *starter)
{
    PyObject *previous;
    if (starter->task == NULL) {
        return;
    }
    PyObject *exc = AEB_UNLIKELY(PyErr_Occurred() != NULL) ? aeb_take_exception() : NULL;
    if (switch_task(starter, starter->outer, &previous) < 0) {
        PyErr_WriteUnraisable(starter->loop);
    }
    else {
        Py_XDECREF(previous);
    }
    Py_CLEAR(starter->outer);
    if (starter->spent) {
        Py_CLEAR(starter->task);
    }
    else {
        aeb_task_give_back(starter->state, starter->task);
        starter->task = NULL;
    }
    if (AEB_UNLIKELY(exc != NULL)) {
        aeb_restore_exception_steal(exc);
    }
}

/* The handler is over after its first step; what it ended with is pending when `raised`. */
static void
finish_first_step(aeb_starter *starter, aeb_handler_task *self, bool raised)
{
    if (AEB_LIKELY(aeb_task_unassign(starter->task, starter->references))) {
        return;
    }
    PyObject *exc = raised ? aeb_take_exception() : NULL;
    starter->spent = true;
    if (aeb_task_finish(starter->task, self->failed ? exc : NULL, self->ended_cancelled) < 0) {
        PyErr_WriteUnraisable(starter->task);
    }
    if (raised) {
        aeb_restore_exception_steal(exc);
    }
}

/* The handler has suspended in its first step, and yielded this: makes its task a real one. */
static int
suspend_first_step(aeb_starter *starter, aeb_handler_task *self, PyObject *yielded_steal)
{
    starter->spent = true;
#if PY_VERSION_HEX < 0x030C0000
    /* The task's own first step is in the next turn, which is all that a bare yield asks for. */
    if (yielded_steal == Py_None) {
        Py_CLEAR(yielded_steal);
    }
#endif
    if (self->status == AEB_HANDLER_DONE) { /* closed by something that the step has left */
        Py_XDECREF(yielded_steal);
        return aeb_task_finish(starter->task, NULL, true);
    }
    Py_XSETREF(self->yielded, yielded_steal);
    self->task = Py_NewRef(starter->task);
    if (aeb_task_make(starter->task, true) < 0) {
        return -1;
    }
    if (self->cancel_requested) { /* during its first step, when it had no task yet */
        aeb_handler_task_cancel(self);
    }
    return 0;
}

/* 0, or -1 when the step could not be tried or the task not be made; *fatal when the error that is
 * set then is the handler's and has been dealt with but for being raised. */
static int
first_step(aeb_starter *starter, aeb_handler_task *self, bool *fatal)
{
    if (starter->spent && enter_blank_task(starter) < 0) {
        return -1;
    }
    PyObject *result = NULL, *context = PyContext_CopyCurrent();
    if (context == NULL) {
        return -1;
    }
    self->lazy = self->first_step = true;
    Py_XSETREF(self->loop, Py_NewRef(starter->loop));
    aeb_task_assign(starter->task, self, context);
#if PY_VERSION_HEX >= 0x030B0000
    if (PyContext_Enter(context) < 0) {
        Py_DECREF(context);
        return -1;
    }
#else
    self->context = Py_NewRef(context); /* each step enters it */
#endif
    PySendResult sent = aeb_handler_task_step(self, Py_None, NULL, &result);
#if PY_VERSION_HEX >= 0x030B0000
    if (AEB_UNLIKELY(PyContext_Exit(context) < 0)) {
        PyErr_WriteUnraisable((PyObject *)self); /* somebody has left another context entered */
    }
#endif
    Py_DECREF(context);
    if (sent == PYGEN_NEXT) {
        return suspend_first_step(starter, self, result);
    }
    finish_first_step(starter, self, sent == PYGEN_ERROR);
    if (AEB_LIKELY(sent == PYGEN_RETURN)) {
        Py_DECREF(result);
        return 0;
    }
    if (self->failed || self->ended_cancelled) { /* that is its own affair */
        PyErr_Clear();
        return 0;
    }
    *fatal = true;
    return -1;
}

int
aeb_starter_start(aeb_starter *starter, aeb_handler_task *delivery)
{
    bool fatal = false;
    Py_INCREF(delivery);
    int status = starter->lazy ? first_step(starter, delivery, &fatal)
                               : start_task(delivery, starter->loop, true);
    if (AEB_UNLIKELY(status < 0 && !fatal)) {
        status = started(delivery, status);
    }
    Py_DECREF(delivery);
    return status;
}

void
aeb_handler_task_cancel(aeb_handler_task *self)
{
    bool starting = self->status == AEB_HANDLER_RUNNING && self->task == NULL;
    if (self->status == AEB_HANDLER_DONE || starting) {
        self->cancel_requested |= starting; /* start_task() sees to it */
        return;
    }
    PyObject *exc = aeb_take_exception();
    PyObject *task = Py_XNewRef(self->task), *loop = Py_XNewRef(self->loop);
    PyObject *answer = NULL, *loop_of_thread = NULL, *cancel = NULL;
    self->cancel_requested = true;
    if (task == NULL || aeb_aio_running_loop(self->state, &loop_of_thread) < 0) {
        goto done;
    }
    if (loop_of_thread == loop) {
        answer = PyObject_CallMethodNoArgs(task, self->state->str_cancel);
    }
    else {
        cancel = PyObject_GetAttr(task, self->state->str_cancel);
        if (cancel != NULL) {
            answer = PyObject_CallMethodOneArg(loop, self->state->str_call_soon_threadsafe, cancel);
        }
    }

done:
    if (answer == NULL) {
        /* It has no task yet, or its loop is closed: nothing will ever run it again. */
        PyErr_Clear();
        if (aeb_handler_task_close(self) < 0) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
    }
    Py_XDECREF(answer);
    Py_XDECREF(cancel);
    Py_XDECREF(loop_of_thread);
    Py_XDECREF(loop);
    Py_XDECREF(task);
    aeb_restore_exception_steal(exc);
}

int
aeb_close_awaitable(aeb_state *state, PyObject *obj)
{
    PyObject *close = PyObject_GetAttr(obj, state->str_close);
    if (close == NULL) {
        PyErr_Clear(); /* a future or an iterator: there is nothing to close */
        return 0;
    }
    PyObject *answer = PyObject_CallNoArgs(close);
    Py_DECREF(close);
    Py_XDECREF(answer);
    return answer == NULL ? -1 : 0;
}

int
aeb_handler_task_close(aeb_handler_task *self)
{
    if (self->status == AEB_HANDLER_DONE) {
        return 0;
    }
    if (self->status == AEB_HANDLER_RUNNING) {
        PyErr_SetString(PyExc_ValueError, "coroutine already executing");
        return -1;
    }
    /* Closing a handler closes the emission that it awaits, and that cancels further handlers. */
    if (Py_EnterRecursiveCall(" while closing nested handlers")) {
        return -1;
    }
    int status = 0;
    PyObject *started = Py_XNewRef(self->inner);
    self->status = AEB_HANDLER_RUNNING;
    self->finished_early = self->ended_cancelled = true; /* should its task ever run again */
    if (self->task != NULL &&
        PyObject_SetAttr(self->task, self->state->str_log_destroy_pending, Py_False) < 0) {
        PyErr_Clear();
    }
    if (started != NULL && aeb_close_awaitable(self->state, started) < 0) {
        status = aeb_report_failure(self->bus, self->sub, self->name, false);
    }
    else if (!self->cancel_requested) {
        status = aeb_report_cancelled(self->bus, self->sub, self->name, false);
    }
    PyObject *fatal = status < 0 ? aeb_take_exception() : NULL;
    (void)aeb_handler_task_settle(self, NULL);
    Py_XDECREF(started);
    Py_LeaveRecursiveCall();
    aeb_restore_exception_steal(fatal);
    return status;
}

void
aeb_handler_task_abandon(aeb_handler_task *self)
{
    self->settled = NULL;
    if (self->task != NULL &&
        PyObject_SetAttr(self->task, self->state->str_log_destroy_pending, Py_False) < 0) {
        PyErr_Clear();
    }
}
