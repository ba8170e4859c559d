/* Starting, cancelling and closing the deliveries that handler_task.c describes.
 *
 * A delivery gets a task of its loop here; the first steps of emit_async, which are taken at once,
 * are in starter.c.
 *
 * All steps of a delivery must run in one context.  From 3.11 on a task can be given one; before,
 * the delivery enters its context around every step.
 */
#include "aio.h"
#include "careful.h"
#include "handler_task.h"
#include "lazy_task.h"
#include "report.h"

/* ---- which deliveries there are -------------------------------------------------------------- */

const aeb_plan_entry *
aeb_next_entry_of_both(aeb_plan *plan, PyObject *late, aeb_async_cursor *cursor,
                       PyObject **awaitable)
{
    Py_ssize_t n_late = late == NULL ? 0 : PyList_GET_SIZE(late);
    cursor->took = 0;
    while (cursor->next_entry < plan->n_entries || cursor->next_late < n_late) {
        const aeb_plan_entry *entry = NULL;
        *awaitable = NULL;
        if (cursor->next_entry < plan->n_entries) {
            entry = &plan->entries[cursor->next_entry];
            if (AEB_UNLIKELY(cursor->skip_offloaded && entry->sub->offload)) {
                cursor->next_entry++;
                continue;
            }
        }
        if (AEB_UNLIKELY(cursor->next_late < n_late)) {
            PyObject *item = PyList_GET_ITEM(late, cursor->next_late);
            aeb_plan_entry *other = &plan->entries[PyLong_AsSsize_t(PyTuple_GET_ITEM(item, 0))];
            if (entry == NULL || aeb_subscription_before(other->sub, entry->sub)) {
                *awaitable = PyTuple_GET_ITEM(item, 1);
                cursor->took = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(item, 2));
                cursor->next_late++;
                return other;
            }
        }
        cursor->next_entry++;
        cursor->asked |= entry->sub->where != NULL;
        int admitted = cursor->wanted ? aeb_registry_claim(entry->sub)
                                      : aeb_admit(cursor->bus, entry->sub, cursor->occasion,
                                                  cursor->guarded, cursor->nested);
        cursor->wanted = false;
        if (admitted != 0) {
            cursor->failed = admitted < 0;
            return admitted < 0 ? NULL : entry;
        }
    }
    return NULL;
}

int
aeb_next_delivery(aeb_plan *plan, PyObject *late, aeb_async_cursor *cursor,
                  aeb_handler_task **delivery)
{
    PyObject *awaitable;
    const aeb_plan_entry *entry = aeb_next_entry(plan, late, cursor, &awaitable);
    if (entry == NULL) {
        return cursor->failed ? -1 : 0;
    }
    *delivery = aeb_handler_task_new(cursor->bus, entry, cursor->occasion, awaitable);
    if (*delivery == NULL) {
        cursor->next_late -= awaitable != NULL; /* it is still to be closed */
        return -1;
    }
    (*delivery)->took = cursor->took;
    return 1;
}

void
aeb_close_late(aeb_state *state, PyObject *late, Py_ssize_t i)
{
    if (AEB_LIKELY(late == NULL)) {
        return;
    }
    PyObject *exc = aeb_take_exception();
    for (; i < PyList_GET_SIZE(late); i++) {
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
    int status = 0;
    if (state->lazy_task_type == NULL) {
        return 0;
    }
    if (current == NULL) {
        status = aeb_aio_running_loop(state, &loop);
        if (status == 0 && loop != NULL) {
            status = aeb_aio_current_task(state, loop, &current);
        }
    }
    if (status == 0) {
        status = aeb_task_delivery(state, current, found);
    }
    Py_XDECREF(current);
    Py_XDECREF(loop);
    return status;
}

/* The context variable is dear to set, so an emission does without it (it is "untracked") where
 * nothing but its own handlers is unfinished when it begins.  What is found in the variable is the
 * answer unless it is over; where nothing is found the current task may tell.  What is missed are
 * the tasks that an untracked handler makes: aeb_handler_task_base_depth() allows for it.  The
 * emissions of such tasks are tracked, for that handler is unfinished then, or has nothing to do
 * with them any more; so in a row of handlers that wait for each other only the first is missed. */
int
aeb_handler_task_current(aeb_state *state, PyObject *task, aeb_handler_task **found)
{
    PyObject *value;
    *found = NULL;
    if (AEB_LIKELY(AEB_LOAD(state->n_live) == 0) || AEB_LOAD(state->current_handler) == NULL) {
        return 0;
    }
    if (PyContextVar_Get(state->current_handler, NULL, &value) < 0) {
        return -1;
    }
    if (value != NULL && !Py_IS_TYPE(value, state->handler_task_type)) {
        Py_CLEAR(value); /* copy_context() shows the variable, and anybody can set it */
    }
    *found = (aeb_handler_task *)value;
    if (value == NULL || AEB_IS_OVER(*found)) {
        *found = NULL;
        Py_XDECREF(value); /* the handler is over, and this is a task that it left behind */
        if (delivery_of_current_task(state, task, found) < 0) {
            return -1;
        }
    }
    if (*found != NULL && AEB_IS_OVER(*found)) {
        Py_CLEAR(*found);
    }
    return 0;
}

int
aeb_handler_task_inside(aeb_state *state)
{
    aeb_handler_task *found;
    int status = aeb_handler_task_current(state, NULL, &found);
    bool inside = found != NULL;
    Py_XDECREF(found);
    return status < 0 ? -1 : inside;
}

Py_ssize_t
aeb_handler_task_base_depth(aeb_state *state, const aeb_handler_task *parent)
{
    return parent != NULL ? parent->depth : AEB_LOAD(state->n_live) > 0;
}

/* How many handlers that are not over are waiting in a row, from `task` up. */
static Py_ssize_t
live_depth(aeb_handler_task *task)
{
    Py_ssize_t depth = 0;
    for (Py_INCREF(task); task != NULL;) {
        aeb_handler_task *parent = aeb_handler_task_parent(task);
        if (!AEB_IS_OVER(task)) {
            depth += parent != NULL ? 1 : task->depth; /* see aeb_handler_task_base_depth() */
        }
        Py_DECREF(task);
        task = parent;
    }
    return depth;
}

int
aeb_handler_task_check_depth(aeb_handler_task *task)
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
    AEB_LOCK(self);
    if (self->loop == NULL) {
        self->loop = Py_NewRef(loop);
    }
    AEB_UNLOCK();
    PyObject *factory;
    if (aeb_aio_task_factory(state, loop, &factory) < 0) {
        return -1;
    }
    if (factory == NULL && !eager && state->lazy_task_type != NULL) {
        self->lazy = true;
        task = aeb_task_alloc(self, NULL);
        if (task != NULL && aeb_task_make(task, false) < 0) {
            Py_CLEAR(task);
        }
    }
    else if ((name = aeb_subscription_task_name(self->sub, self->name)) != NULL) {
        task = aeb_aio_new_task(state, loop, (PyObject *)self, name, factory != NULL,
                                eager ? AEB_TASK_EAGER : AEB_TASK_LATER);
    }
    Py_XDECREF(name);
    Py_XDECREF(factory);
    if (task == NULL) {
        return -1;
    }
    bool cancel = false;
    AEB_LOCK(self);
    if (AEB_LOAD(self->status) != AEB_HANDLER_DONE) {
        self->task = Py_NewRef(task);
        /* During its first step, which an eager task took. */
        cancel = AEB_LOAD(self->cancel_requested);
    }
    AEB_UNLOCK();
    if (cancel) {
        aeb_handler_task_cancel(self);
    }
    Py_DECREF(task);
    return 0;
}

int
aeb_handler_task_start(aeb_handler_task *self, PyObject *loop)
{
    Py_INCREF(self);
    int status = start_task(self, loop, false) < 0 ? aeb_handler_task_fail(self) : 0;
    Py_DECREF(self);
    return status;
}

int
aeb_handler_task_start_eagerly(aeb_handler_task *self, PyObject *loop)
{
    Py_INCREF(self);
    int status = start_task(self, loop, true) < 0 ? aeb_handler_task_fail(self) : 0;
    Py_DECREF(self);
    return status;
}

/* ---- stopping them --------------------------------------------------------------------------- */

/* Its task will not run to its end, and need not complain of that. */
static void
silence_task(aeb_handler_task *self)
{
    PyObject *task;
    AEB_LOCK(self);
    task = Py_XNewRef(self->task);
    AEB_UNLOCK();
    if (task != NULL &&
        PyObject_SetAttr(task, self->state->str_log_destroy_pending, Py_False) < 0) {
        PyErr_Clear();
    }
    Py_XDECREF(task);
}

/* Ends a delivery, unless it is over, or *running.  0 or -1. */
static int
close_delivery(aeb_handler_task *self, bool *running)
{
    *running = false;
    if (AEB_IS_OVER(self)) {
        return 0;
    }
    /* Closing a handler closes the emission that it awaits, and that cancels further handlers. */
    if (Py_EnterRecursiveCall(" while closing nested handlers")) {
        return -1;
    }
    int status = 0;
    bool claimed, begins;
    PyObject *started = NULL;
    AEB_LOCK(self);
    claimed = aeb_handler_task_claim_locked(self, &begins);
    if (claimed) {
        started = Py_XNewRef(self->inner);
        self->finished_early = self->ended_cancelled = true; /* should its task ever run again */
    }
    AEB_UNLOCK();
    if (!claimed) {
        Py_LeaveRecursiveCall();
        *running = !AEB_IS_OVER(self);
        return 0;
    }
    silence_task(self);
    if (started != NULL && aeb_close_awaitable(self->state, started) < 0) {
        status = aeb_report_failure(self->bus, self->sub, self->name, false);
    }
    else {
        (void)AEB_ADD(self->bus->n_cancelled, !self->timed_out);
        if (!AEB_LOAD(self->cancel_requested)) {
            status = aeb_report_cancelled(self->bus, self->sub, self->name, false);
        }
    }
    PyObject *fatal = status < 0 ? aeb_take_exception() : NULL;
    (void)aeb_handler_task_settle(self, NULL);
    Py_XDECREF(started);
    Py_LeaveRecursiveCall();
    aeb_restore_exception_steal(fatal);
    return status;
}

int
aeb_handler_task_close(aeb_handler_task *self)
{
    bool running;
    int status = close_delivery(self, &running);
    if (running) {
        PyErr_SetString(PyExc_ValueError, "coroutine already executing");
        return -1;
    }
    return status;
}

void
aeb_handler_task_cancel(aeb_handler_task *self)
{
    PyObject *task = NULL, *loop = NULL;
    bool now;
    AEB_LOCK(self);
    now = AEB_LOAD(self->status) != AEB_HANDLER_DONE &&
          (AEB_LOAD(self->status) != AEB_HANDLER_RUNNING || self->task != NULL);
    if (now) {
        task = Py_XNewRef(self->task);
        loop = Py_XNewRef(self->loop);
    }
    if (AEB_LOAD(self->status) != AEB_HANDLER_DONE) {
        AEB_STORE(self->cancel_requested, true); /* if not now, start_task() sees to it */
    }
    AEB_UNLOCK();
    if (!now) {
        return;
    }
    PyObject *exc = aeb_take_exception();
    PyObject *answer = NULL, *loop_of_thread = NULL, *cancel = NULL;
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
        if (PyErr_Occurred() && aeb_clear_ordinary_exception() < 0) {
            PyErr_WriteUnraisable(task);
        }
        bool running; /* begun in another thread meanwhile: start_task() sees to it */
        int closed = task != NULL ? aeb_handler_task_close(self) : close_delivery(self, &running);
        if (closed < 0) {
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

void
aeb_handler_task_abandon(aeb_handler_task *self)
{
    self->settled = NULL;
    silence_task(self);
}
