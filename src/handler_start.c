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

const aeb_plan_entry *
aeb_next_entry(aeb_plan *plan, PyObject *late, aeb_async_cursor *cursor, PyObject **awaitable)
{
    Py_ssize_t n_late = late == NULL ? 0 : PyList_GET_SIZE(late);
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
            PyObject *pair = PyList_GET_ITEM(late, cursor->next_late);
            aeb_plan_entry *other = &plan->entries[PyLong_AsSsize_t(PyTuple_GET_ITEM(pair, 0))];
            if (entry == NULL || aeb_subscription_before(other->sub, entry->sub)) {
                *awaitable = PyTuple_GET_ITEM(pair, 1);
                cursor->next_late++;
                return other;
            }
        }
        cursor->next_entry++;
        if (aeb_registry_claim(entry->sub)) {
            return entry;
        }
    }
    return NULL;
}

int
aeb_next_delivery(aeb_bus *bus, aeb_plan *plan, aeb_occasion *occasion, PyObject *late,
                  aeb_async_cursor *cursor, aeb_handler_task **delivery)
{
    PyObject *awaitable;
    const aeb_plan_entry *entry = aeb_next_entry(plan, late, cursor, &awaitable);
    if (entry == NULL) {
        return 0;
    }
    *delivery = aeb_handler_task_new(bus, entry, occasion, awaitable);
    if (*delivery == NULL) {
        cursor->next_late -= awaitable != NULL; /* it is still to be closed */
        return -1;
    }
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
    if (self->status != AEB_HANDLER_DONE) {
        self->task = Py_NewRef(task);
        if (self->cancel_requested) { /* during its first step, which an eager task took */
            aeb_handler_task_cancel(self);
        }
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

/* ---- first steps ----------------------------------------------------------------------------- */

/* Makes `task` the current one of the loop; NULL: none.  This is what asyncio's functions for it do,
 * which differ with the version: one look-up in its table of current tasks.  0 or -1. */
static int
set_current_task(aeb_starter *starter, PyObject *task)
{
    PyObject *tasks = starter->state->current_tasks;
    if (tasks == NULL) { /* asyncio has been forgotten: the interpreter is going down */
        PyErr_SetString(PyExc_RuntimeError, "agent_event_bus has been unloaded");
        return -1;
    }
    if (AEB_LIKELY(task != NULL)) {
        return PyDict_SetItem(tasks, starter->loop, task);
    }
    int status = PyDict_DelItem(tasks, starter->loop);
    if (status < 0 && PyErr_ExceptionMatches(PyExc_KeyError)) {
        PyErr_Clear(); /* the handler has seen to it */
        status = 0;
    }
    return status;
}

/* Enters a blank task as the current one. */
static int
enter_blank_task(aeb_starter *starter)
{
    PyObject *task = aeb_task_take(starter->state);
    if (task == NULL) {
        return -1;
    }
    if (set_current_task(starter, task) < 0) {
        aeb_task_give_back(starter->state, task);
        return -1;
    }
    Py_XDECREF(starter->task);
    aeb_task_fields_of(task)->starter = starter;
    starter->task = task;
    starter->spent = false;
    starter->references = Py_REFCNT(task);
    starter->no_loop_calls = starter->state->no_loop_calls;
    return 0;
}

int
aeb_starter_begin(aeb_starter *starter)
{
    aeb_state *state = starter->state;
    PyObject *factory = NULL;
    if (state->lazy_task_type == NULL) {
        return 0;
    }
    if (aeb_aio_task_factory(state, starter->loop, &factory) < 0) {
        return -1;
    }
    starter->lazy = factory == NULL;
    Py_XDECREF(factory);
    starter->untracked = starter->lazy && state->n_live == 0 && starter->bus->max_concurrency == 0;
    if (!starter->lazy) {
        return 0;
    }
    starter->outer = Py_XNewRef(PyDict_GetItemWithError(state->current_tasks, starter->loop));
    if (starter->outer == NULL && PyErr_Occurred()) {
        return -1;
    }
    if (enter_blank_task(starter) < 0) {
        Py_CLEAR(starter->outer);
        return -1;
    }
    return 0;
}

void
aeb_starter_end(aeb_starter *starter, bool raised)
{
    if (starter->task == NULL) {
        return;
    }
    PyObject *exc = AEB_UNLIKELY(raised) ? aeb_take_exception() : NULL;
    if (set_current_task(starter, starter->outer) < 0) {
        PyErr_WriteUnraisable(starter->loop);
    }
    Py_XDECREF(starter->outer);
    Py_XDECREF(starter->unchanged);
    if (starter->spent) {
        Py_DECREF(starter->task);
    }
    else {
        aeb_task_give_back(starter->state, starter->task);
    }
    if (AEB_UNLIKELY(raised)) {
        aeb_restore_exception_steal(exc);
    }
}

/* The delivery is over after its first step; what it ended with is pending when `raised`. */
static void
finish_first_step(aeb_starter *starter, aeb_handler_task *self, bool raised)
{
    PyObject *exc = raised ? aeb_take_exception() : NULL;
    if (aeb_task_is_untouched(starter)) {
        aeb_task_unassign(starter->task);
    }
    else {
        starter->spent = true;
        if (aeb_task_finish(starter->task, self->failed ? exc : NULL, self->ended_cancelled) < 0) {
            PyErr_WriteUnraisable(starter->task);
        }
    }
    if (raised) {
        aeb_restore_exception_steal(exc);
    }
}

/* The handler has suspended in its first step, and yielded this: gives it a real task.
 *
 * That is the one it has run under, if it may know that one.  Else a new one is made, and the one it
 * has run under, still blank, serves the next handler: a blank task is more work than a new one.
 *
 * The real task is an eager one where it can be, so that it waits at once for the future that the
 * handler has yielded and no turn of the loop is spent on its first step.  But a bare yield asks
 * for a turn, and for that the ordinary start of a task is just right. */
static int
suspend_first_step(aeb_starter *starter, aeb_handler_task *self, PyObject *yielded_steal)
{
    bool turn = yielded_steal == Py_None;
    if (turn) {
        Py_CLEAR(yielded_steal);
    }
    Py_XSETREF(self->yielded, yielded_steal);
    if (aeb_task_is_untouched(starter)) {
        self->task = aeb_task_alloc(self, aeb_task_fields_of(starter->task)->context);
        aeb_task_unassign(starter->task);
        if (self->task == NULL) {
            return -1;
        }
    }
    else {
        starter->spent = true;
        self->task = Py_NewRef(starter->task);
    }
    if (aeb_task_make(self->task, !turn) < 0) {
        return -1;
    }
    if (self->cancel_requested) { /* during its first step, when it had no task yet */
        aeb_handler_task_cancel(self);
    }
    return 0;
}

/* What follows the first step of a delivery, which has ended in this way.  0, or -1 when its task
 * could not be made; *fatal when the error that is set then is to be raised as it is. */
static int
after_first_step(aeb_starter *starter, aeb_handler_task *self, PySendResult sent,
                 PyObject *result_steal, bool *fatal)
{
    if (sent == PYGEN_NEXT) {
        return suspend_first_step(starter, self, result_steal);
    }
    finish_first_step(starter, self, sent == PYGEN_ERROR);
    if (sent == PYGEN_RETURN) {
        Py_DECREF(result_steal);
        return 0;
    }
    if (self->failed || self->ended_cancelled) { /* that has been dealt with */
        PyErr_Clear();
        return 0;
    }
    *fatal = true;
    return -1;
}

/* Leaves a context.  Never raises; a pending exception, which there is when `raised`, stays. */
static inline void
exit_context(aeb_starter *starter, PyObject *context, bool raised)
{
    PyObject *exc = AEB_UNLIKELY(raised) ? aeb_take_exception() : NULL;
    if (AEB_UNLIKELY(PyContext_Exit(context) < 0)) {
        PyErr_WriteUnraisable(starter->loop); /* somebody has left another context entered */
    }
    if (AEB_UNLIKELY(raised)) {
        aeb_restore_exception_steal(exc);
    }
}

/* The first step of a delivery in `context`.  As after_first_step(). */
static int
first_step(aeb_starter *starter, aeb_handler_task *self, PyObject *context, bool *fatal)
{
    PyObject *result = NULL;
#if PY_VERSION_HEX >= 0x030B0000
    if (PyContext_Enter(context) < 0) {
        return -1;
    }
#else
    Py_XSETREF(self->context, Py_NewRef(context)); /* each step enters it */
#endif
    PySendResult sent = aeb_handler_task_step(self, Py_None, NULL, &result);
#if PY_VERSION_HEX >= 0x030B0000
    exit_context(starter, context, sent == PYGEN_ERROR);
#endif
    return after_first_step(starter, self, sent, result, fatal);
}

static int
start_lazily(aeb_starter *starter, aeb_handler_task *self, bool *fatal)
{
    if (starter->spent && enter_blank_task(starter) < 0) {
        return -1;
    }
    PyObject *context = PyContext_CopyCurrent();
    if (context == NULL) {
        return -1;
    }
    self->lazy = true;
    self->untracked = starter->untracked;
    Py_XSETREF(self->loop, Py_NewRef(starter->loop));
    aeb_task_assign(starter->task, self, context);
    int status = first_step(starter, self, context, fatal);
    Py_DECREF(context);
    return status;
}

int
aeb_starter_start(aeb_starter *starter, aeb_handler_task *delivery)
{
    bool fatal = false;
    Py_INCREF(delivery);
    int status = starter->lazy ? start_lazily(starter, delivery, &fatal)
                               : start_task(delivery, starter->loop, true);
    if (AEB_UNLIKELY(status < 0 && !fatal)) {
        status = aeb_handler_task_fail(delivery);
    }
    Py_DECREF(delivery);
    return status;
}

int
aeb_starter_start_alone(aeb_handler_task *delivery)
{
    aeb_starter starter = {
        .state = delivery->state, .bus = delivery->bus, .loop = delivery->loop};
    if (aeb_starter_begin(&starter) < 0) {
        return aeb_handler_task_fail(delivery);
    }
    int status = aeb_starter_start(&starter, delivery);
    aeb_starter_end(&starter, status < 0);
    return status;
}

/* ---- first steps without a delivery ---------------------------------------------------------- */

int
aeb_starter_make_delivery(aeb_starter *starter)
{
    if (starter->entry == NULL || starter->delivery != NULL) {
        return 0;
    }
    PyObject *exc = aeb_take_exception();
    aeb_handler_task *self =
        aeb_handler_task_new(starter->bus, starter->entry, starter->occasion, NULL);
    if (self == NULL) {
        Py_XDECREF(exc);
        return -1;
    }
    aeb_restore_exception_steal(exc);
    self->status = AEB_HANDLER_RUNNING;
    self->called = self->lazy = self->untracked = self->live = true;
    self->loop = Py_NewRef(starter->loop);
    self->inner = Py_XNewRef(starter->coro);
    aeb_task_assign(starter->task, self, starter->context);
    starter->adopt(starter->owner, self);
    starter->delivery = self;
    return 0;
}

/* The rest of aeb_starter_run() where there is more to do: the handler has suspended or failed, is
 * no plain coroutine, or somebody has taken an interest in its task. */
static int
run_further(aeb_starter *starter, PyObject *context, PyObject *value_steal, PySendResult sent,
            PyObject *result_steal, aeb_handler_task **delivery)
{
    bool fatal = false, plain = value_steal == NULL || PyCoro_CheckExact(value_steal);
    int status = aeb_starter_make_delivery(starter);
    aeb_handler_task *self = starter->delivery;
    starter->entry = NULL;
    starter->delivery = NULL;
    *delivery = self;
    if (status < 0) {
        starter->state->n_live--;
        if (value_steal != NULL && aeb_close_awaitable(starter->state, value_steal) < 0) {
            PyErr_WriteUnraisable(value_steal);
        }
        Py_XDECREF(value_steal);
        Py_XDECREF(result_steal);
        return -1;
    }
    if (plain) {
        Py_XSETREF(self->inner, value_steal);
#if PY_VERSION_HEX < 0x030B0000
        self->context = Py_NewRef(context);
#endif
        sent = aeb_handler_task_stepped(self, sent, &result_steal);
        status = after_first_step(starter, self, sent, result_steal, &fatal);
    }
    else if (aeb_is_awaitable(value_steal)) {
        self->awaitable = value_steal;
        self->status = AEB_HANDLER_NEW;
        status = first_step(starter, self, context, &fatal);
    }
    else {
        result_steal = value_steal;
        sent = aeb_handler_task_stepped(self, PYGEN_RETURN, &result_steal);
        status = after_first_step(starter, self, sent, result_steal, &fatal);
    }
    return status < 0 && !fatal ? aeb_handler_task_fail(self) : status;
}

int
aeb_starter_run(aeb_starter *starter, const aeb_plan_entry *entry, aeb_handler_task **delivery)
{
    aeb_state *state = starter->state;
    *delivery = NULL;
    if (AEB_UNLIKELY(starter->spent) && enter_blank_task(starter) < 0) {
        return -1;
    }
    PyObject *result = NULL, *context = starter->unchanged;
    starter->unchanged = NULL;
    if (context == NULL) {
        context = PyContext_CopyCurrent();
    }
    if (AEB_UNLIKELY(context == NULL || PyContext_Enter(context) < 0)) {
        Py_XDECREF(context);
        return -1;
    }
    starter->entry = entry;
    starter->context = context;
    starter->coro = NULL;
    void *variables = ((void **)context)[state->context_word];
    state->n_live++;
    PySendResult sent = PYGEN_ERROR;
    PyObject *value = aeb_call_handler(entry->sub, entry->form, starter->occasion);
    bool is_coroutine = value != NULL && PyCoro_CheckExact(value);
    if (AEB_LIKELY(is_coroutine)) {
        starter->coro = value;
        if (AEB_UNLIKELY(starter->delivery != NULL)) {
            starter->delivery->inner = Py_NewRef(value);
        }
        sent = aeb_iter_send(value, Py_None, &result);
        starter->coro = NULL;
    }
    exit_context(starter, context, value == NULL || (sent == PYGEN_ERROR && is_coroutine));
    int status = 1;
    if (AEB_LIKELY(sent == PYGEN_RETURN && starter->delivery == NULL &&
                   aeb_task_is_untouched(starter))) {
        state->n_live--;
        starter->entry = NULL;
        Py_DECREF(result); /* a handler's return value has no reader */
        Py_DECREF(value);
        if (AEB_LIKELY(state->context_word > 0 && Py_REFCNT(context) == 1 &&
                       ((void **)context)[state->context_word] == variables &&
                       !aeb_has_weak_references(context))) {
            starter->unchanged = context; /* see find_context_variables() */
            return 1;
        }
    }
    else {
        status = run_further(starter, context, value, sent, result, delivery);
    }
    Py_DECREF(context);
    return status;
}

/* ---- stopping them --------------------------------------------------------------------------- */

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
