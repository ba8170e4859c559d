/* Starting, cancelling and closing the deliveries that handler_task.c describes.
 *
 * The first step of an emit_async delivery is taken at once, under its new task: a handler that
 * does not suspend costs no turn of the loop.  From 3.12 on that is an eager task.  Before, the
 * task is made in the ordinary way and the step is taken by hand, with the task entered as the
 * current one: an "early" step.
 *
 * Early and later steps must run in one context.  A 3.11 task can be given one; before, the
 * delivery enters its context around every step.
 */
#include "aio.h"
#include "handler_task.h"
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

int
aeb_handler_task_current(aeb_state *state, aeb_handler_task **found)
{
    PyObject *value;
    *found = NULL;
    if (state->current_handler == NULL) {
        return 0;
    }
    if (PyContextVar_Get(state->current_handler, NULL, &value) < 0) {
        return -1;
    }
    if (value != NULL && ((aeb_handler_task *)value)->status == AEB_HANDLER_DONE) {
        Py_CLEAR(value); /* the handler is over, and this is a task that it left behind */
    }
    *found = (aeb_handler_task *)value;
    return 0;
}

/* How many handlers that are not over are waiting in a row, from `task` up. */
static Py_ssize_t
live_depth(const aeb_handler_task *task)
{
    Py_ssize_t depth = 0;
    for (; task != NULL; task = task->parent) {
        depth += task->status != AEB_HANDLER_DONE;
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

static PyObject *
task_name(aeb_handler_task *self)
{
    PyObject *handler = aeb_handler_name(self->sub->handler);
    if (handler == NULL) {
        return NULL;
    }
    PyObject *name = PyUnicode_FromFormat("%U -> %U", self->name, handler);
    Py_DECREF(handler);
    return name;
}

#if PY_VERSION_HEX < 0x030C0000
/* loop's current task: `from` out, `to` in (either may be NULL). */
static int
switch_task(aeb_state *state, PyObject *loop, PyObject *from, PyObject *to)
{
    PyObject *calls[2][2] = {{state->leave_task, from}, {state->enter_task, to}};
    for (int i = 0; i < 2; i++) {
        if (calls[i][1] == NULL) {
            continue;
        }
        PyObject *done = PyObject_CallFunctionObjArgs(calls[i][0], loop, calls[i][1], NULL);
        if (done == NULL) {
            if (i == 1 && from != NULL) { /* leave things as they were */
                PyObject *exc = aeb_take_exception();
                done = PyObject_CallFunctionObjArgs(state->enter_task, loop, from, NULL);
                Py_XDECREF(done);
                PyErr_Clear();
                aeb_restore_exception_steal(exc);
            }
            return -1;
        }
        Py_DECREF(done);
    }
    return 0;
}

/* Takes the first step under `task` now.  -1 only when it could not be tried. */
static int
early_step(aeb_handler_task *self, PyObject *loop, PyObject *task, PyObject *context)
{
    aeb_state *state = self->state;
    PyObject *outer, *result = NULL;
    if (aeb_aio_current_task(state, loop, &outer) < 0) {
        return -1;
    }
    if (switch_task(state, loop, outer, task) < 0) {
        Py_XDECREF(outer);
        return -1;
    }
#if PY_VERSION_HEX >= 0x030B0000
    bool entered = PyContext_Enter(context) == 0;
#else
    self->context = Py_NewRef(context); /* each step enters it */
    bool entered = true;
#endif
    PySendResult sent = entered ? aeb_handler_task_step(self, Py_None, NULL, &result) : PYGEN_ERROR;
    PyObject *raised = aeb_take_exception();
#if PY_VERSION_HEX >= 0x030B0000
    if (entered && PyContext_Exit(context) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
#endif
    if (switch_task(state, loop, task, outer) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_XDECREF(outer);
    if (!entered) {
        aeb_restore_exception_steal(raised);
        return -1;
    }
    if (sent == PYGEN_NEXT) {
        /* After a bare yield the task's own first step is the turn that was asked for. */
        if (result != Py_None && self->status == AEB_HANDLER_SUSPENDED) {
            self->yielded = Py_NewRef(result);
        }
    }
    else {
        /* A cancellation is kept in ended_cancelled, and every other error has an owner. */
        self->finished_early = true;
        if (PyObject_SetAttr(task, state->str_log_destroy_pending, Py_False) < 0) {
            PyErr_Clear();
        }
    }
    Py_XDECREF(raised);
    Py_XDECREF(result);
    return 0;
}
#endif

/* 0, or -1 when the task could not be made or its first step could not be tried. */
static int
start_task(aeb_handler_task *self, PyObject *loop, bool eager)
{
    aeb_state *state = self->state;
    bool own_factory;
    PyObject *context = NULL, *task_context = NULL;
    PyObject *name = task_name(self);
    int status = -1;
    if (name == NULL || aeb_aio_load(state) < 0) {
        goto done;
    }
#if PY_VERSION_HEX < 0x030C0000
    if (eager) {
        context = PyContext_CopyCurrent();
        if (context == NULL) {
            goto done;
        }
    }
#endif
#if PY_VERSION_HEX >= 0x030B0000
    task_context = context;
#endif
    PyObject *task = aeb_aio_new_task(state, loop, (PyObject *)self, name, task_context,
                                      eager ? AEB_TASK_EAGER : AEB_TASK_LATER, &own_factory);
    if (task == NULL) {
        goto done;
    }
    if (self->status != AEB_HANDLER_DONE) {
        self->loop = self->loop != NULL ? self->loop : Py_NewRef(loop);
        self->task = Py_NewRef(task);
        if (self->cancel_requested) { /* during its first step, which an eager factory took */
            aeb_handler_task_cancel(self);
        }
    }
    status = 0;
#if PY_VERSION_HEX < 0x030C0000
    if (eager && !own_factory && self->status == AEB_HANDLER_NEW) {
        status = early_step(self, loop, task, context);
        self->finished_early |= status < 0; /* what the task will find when its own step comes */
    }
#endif
    Py_DECREF(task);

done:
    Py_XDECREF(name);
    Py_XDECREF(context);
    return status;
}

int
aeb_handler_task_start(aeb_handler_task *self, PyObject *loop, bool eager)
{
    Py_INCREF(self);
    int status = start_task(self, loop, eager);
    if (status < 0) {
        status = aeb_handler_task_fail(self);
    }
    Py_DECREF(self);
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
