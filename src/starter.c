/* The first steps of async handlers, which one emission takes one after another.
 *
 * A handler that does not suspend costs no turn of the loop: its first step is taken at once, under
 * a blank task of lazy_task.c that is entered as the loop's current one, in place of the task that
 * emits, and in a context of its own.  While handlers finish at once one task serves them all.
 *
 * Most of these handlers need no delivery either (run_lean): one is made only when the handler
 * suspends or fails, or when somebody takes an interest in its task.
 *
 * Where there are no blank tasks a handler gets an asyncio.Task, an eager one from 3.12 on, and a
 * loop with its own task factory gets that called.
 */
#include "starter.h"

#include "aio.h"
#include "lazy_task.h"
#include "permit.h"
#include "report.h"
#include "timing.h"

/* ---- beginning and ending -------------------------------------------------------------------- */

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
        return aeb_dict_set_hashed(tasks, starter->loop, task, starter->loop_hash);
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
    PyObject *spent = starter->task;
    starter->task = task;
    starter->fields = aeb_task_fields_of(task);
    starter->fields->starter = starter;
    starter->spent = false;
    starter->references = Py_REFCNT(task);
    if (spent != NULL) { /* last, for a finaliser may take hold of the new one */
        aeb_task_fields_of(spent)->starter = NULL;
        Py_DECREF(spent);
    }
    return 0;
}

/* Whether the task cannot serve a handler: it has got one, or a finaliser has found it between two. */
static inline bool
needs_another_task(const aeb_starter *starter)
{
    return starter->spent || starter->fields->touched;
}

int
aeb_starter_begin(aeb_starter *starter)
{
    aeb_state *state = starter->state;
    PyObject *factory;
    starter->n_over = 0;
    starter->outer = starter->task = starter->unchanged = NULL;
    starter->lazy = starter->untracked = starter->spent = starter->exempt = false;
    starter->entry = NULL;
    starter->delivery = NULL;
    starter->measured = NULL;
    starter->clock = 0;
    if (state->lazy_task_type == NULL) {
        return 0;
    }
    if (aeb_aio_task_factory(state, starter->loop, &factory) < 0) {
        return -1;
    }
    starter->lazy = factory == NULL;
    Py_XDECREF(factory);
    starter->untracked =
        starter->lazy && AEB_LOAD(state->n_live) == 0 && starter->bus->max_concurrency == 0;
    if (!starter->lazy) {
        return 0;
    }
    starter->loop_hash = PyObject_Hash(starter->loop);
    if (starter->loop_hash == -1) {
        return -1;
    }
    starter->outer =
        Py_XNewRef(aeb_dict_get_hashed(state->current_tasks, starter->loop, starter->loop_hash));
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
    starter->fields->starter = NULL;
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
        self->task = aeb_task_alloc(self, starter->fields->context);
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
    /* Not a bare step: what the loop was asked for until now may have run code that has closed it. */
    PySendResult sent = aeb_handler_task_send(self, Py_None, &result);
#if PY_VERSION_HEX >= 0x030B0000
    exit_context(starter, context, sent == PYGEN_ERROR);
#endif
    return after_first_step(starter, self, sent, result, fatal);
}

static int
start_lazily(aeb_starter *starter, aeb_handler_task *self, bool *fatal)
{
    if (needs_another_task(starter) && enter_blank_task(starter) < 0) {
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

/* Starts a delivery that the owner has adopted.  0 or -1, as for aeb_handler_task_start(). */
static int
start_delivery(aeb_starter *starter, aeb_handler_task *delivery)
{
    if (!starter->lazy) {
        return aeb_handler_task_start_eagerly(delivery, starter->loop);
    }
    bool fatal = false;
    Py_INCREF(delivery);
    int status = start_lazily(starter, delivery, &fatal);
    if (AEB_UNLIKELY(status < 0 && !fatal)) {
        status = aeb_handler_task_fail(delivery);
    }
    Py_DECREF(delivery);
    return status;
}

/* ---- first steps without a delivery ---------------------------------------------------------- */

int
aeb_starter_make_delivery(aeb_starter *starter)
{
    if (starter->entry == NULL || starter->delivery != NULL) {
        return 0;
    }
    PyObject *owner = Py_NewRef(starter->owner); /* the starter is part of it */
    PyObject *exc = aeb_take_exception();
    aeb_handler_task *self =
        aeb_handler_task_new(starter->bus, starter->entry, starter->occasion, NULL);
    if (self == NULL) {
        Py_XDECREF(exc);
        Py_DECREF(owner);
        return -1;
    }
    aeb_restore_exception_steal(exc);
    if (starter->entry == NULL || starter->delivery != NULL) {
        Py_DECREF(self); /* the allocation ran a finaliser that was faster */
        Py_DECREF(owner);
        return 0;
    }
    self->status = AEB_HANDLER_RUNNING;
    self->called = self->lazy = self->untracked = self->live = true;
    self->loop = Py_NewRef(starter->loop);
    self->inner = Py_XNewRef(starter->coro);
    if (AEB_UNLIKELY(starter->measured != NULL)) {
        self->began = starter->clock; /* now that is the delivery's affair */
        starter->measured = NULL;
    }
    aeb_task_assign(starter->task, self, starter->context);
    starter->adopt(owner, self);
    starter->delivery = self;
    Py_DECREF(owner);
    return 0;
}

/* The rest of run_lean() where there is more to do: the handler has suspended or failed, is
 * no plain coroutine, or somebody has taken an interest in its task.  Leaves `context`, in which a
 * failure is still reported. */
static int
run_further(aeb_starter *starter, PyObject *context, PyObject *value_steal, PySendResult sent,
            PyObject *result_steal, aeb_handler_task **delivery)
{
    bool fatal = false, plain = value_steal == NULL || PyCoro_CheckExact(value_steal);
    (void)AEB_ADD(starter->bus->n_delivered, 1);
    int status = aeb_starter_make_delivery(starter);
    aeb_handler_task *self = starter->delivery;
    starter->entry = NULL;
    starter->delivery = NULL;
    *delivery = self;
    if (status < 0) {
        exit_context(starter, context, true);
        (void)AEB_ADD(starter->state->n_live, -1);
        PyObject *exc =
            aeb_take_exception(); /* closing runs code, which must not find it pending */
        if (value_steal != NULL && aeb_close_awaitable(starter->state, value_steal) < 0) {
            PyErr_WriteUnraisable(value_steal);
        }
        Py_XDECREF(value_steal);
        Py_XDECREF(result_steal);
        aeb_restore_exception_steal(exc);
        return -1;
    }
    if (plain) {
        Py_XSETREF(self->inner, value_steal);
#if PY_VERSION_HEX < 0x030B0000
        self->context = Py_NewRef(context);
#endif
        sent = aeb_handler_task_stepped(self, sent, &result_steal);
        exit_context(starter, context, sent == PYGEN_ERROR);
        status = after_first_step(starter, self, sent, result_steal, &fatal);
    }
    else if (aeb_is_awaitable(value_steal)) {
        exit_context(starter, context, false);
        self->awaitable = value_steal;
        self->status = AEB_HANDLER_NEW;
        status = first_step(starter, self, context, &fatal);
    }
    else {
        result_steal = value_steal;
        sent = aeb_handler_task_stepped(self, PYGEN_RETURN, &result_steal);
        exit_context(starter, context, sent == PYGEN_ERROR);
        status = after_first_step(starter, self, sent, result_steal, &fatal);
    }
    return status < 0 && !fatal ? aeb_handler_task_fail(self) : status;
}

static inline bool
has_weak_references(PyObject *obj)
{
    return *(PyObject **)((char *)obj + Py_TYPE(obj)->tp_weaklistoffset) != NULL;
}

/* Calls an async handler of the plan, which has been claimed, and takes its first step.  1: it is
 * over, and there is no more to it; else *delivery is a new reference to what has been made and
 * adopted for it, or NULL, and the answer is that of start_delivery(). */
static int
run_lean(aeb_starter *starter, const aeb_plan_entry *entry, aeb_handler_task **delivery)
{
    aeb_state *state = starter->state;
    *delivery = NULL;
    if (AEB_UNLIKELY(needs_another_task(starter)) && enter_blank_task(starter) < 0) {
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
    (void)AEB_ADD(state->n_live, 1);
    PySendResult sent = PYGEN_ERROR;
    PyObject *value = aeb_call_handler(entry->sub, entry->form, starter->occasion);
    bool is_coroutine = value != NULL && PyCoro_CheckExact(value);
    if (AEB_LIKELY(is_coroutine)) {
        starter->coro = value;
        if (AEB_UNLIKELY(starter->delivery != NULL)) {
            starter->delivery->inner = Py_NewRef(value);
        }
        sent = aeb_coroutine_start(value, &result);
        if (AEB_LIKELY(sent == PYGEN_RETURN)) {
            Py_CLEAR(result); /* it has no reader; a finaliser of it still belongs to the handler */
        }
        starter->coro = NULL;
    }
    int status = 1;
    if (AEB_LIKELY(sent == PYGEN_RETURN && starter->delivery == NULL &&
                   aeb_task_is_untouched(starter))) {
        exit_context(starter, context, false);
        (void)AEB_ADD(state->n_live, -1);
        starter->entry = NULL;
        Py_DECREF(value);
        if (AEB_LIKELY(state->context_word > 0 && Py_REFCNT(context) == 1 &&
                       ((void **)context)[state->context_word] == variables &&
                       !has_weak_references(context))) {
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

/* On a bus with AEB_PLAN_TIMED: a handler is about to run without a delivery.  The end of the last one
 * is its beginning, unless something has been done in between.  0 or -1. */
static int
begin_measured(aeb_starter *starter, aeb_async_cursor *cursor, aeb_subscription *sub)
{
    if (aeb_timing_prepare(starter->bus, sub) < 0) {
        return -1;
    }
    if (starter->clock == 0 || cursor->asked) {
        starter->clock = aeb_monotonic_ns();
    }
    starter->measured = sub;
    return 0;
}

/* It is over, and has never been a delivery. */
static void
end_measured(aeb_starter *starter, aeb_async_cursor *cursor)
{
    uint64_t took = aeb_timing_lap(&starter->clock);
    cursor->asked = false;
    aeb_timing_note(starter->measured, starter->occasion->watch, took);
    starter->measured = NULL;
}

/* ---- all handlers of an emission ------------------------------------------------------------- */

/* Starts a delivery that nobody owns yet, or leaves that to the queue of its bus.  As
 * start_delivery(). */
static int
start_adopted(aeb_starter *starter, aeb_handler_task *delivery)
{
    starter->adopt(starter->owner, delivery);
    /* Who waits for a stream to have room must not hold a permit that its consumer may need. */
    bool exempt = starter->exempt || delivery->sub->listener;
    int go_ahead = aeb_permit_take(starter->bus, delivery, starter->loop, exempt);
    int status = go_ahead > 0    ? start_delivery(starter, delivery)
                 : go_ahead == 0 ? 0
                                 : aeb_handler_task_fail(delivery);
    return status == 0 ? starter->keep(starter->owner, delivery) : status;
}

int
aeb_starter_start_plan(aeb_starter *starter, aeb_plan *plan, PyObject *late)
{
    aeb_async_cursor cursor = {
        .next_entry = starter->first,
        .wanted = starter->wanted,
        .bus = starter->bus,
        .occasion = starter->occasion,
        .nested = starter->nested,
        .guarded = true,
    };
    const aeb_plan_entry *entry;
    PyObject *awaitable;
    bool leanly = starter->untracked && starter->occasion->outcomes == NULL;
    int status = 0;
    bool timed = plan->flags & AEB_PLAN_TIMED;
    while (status == 0 && *starter->fatal == NULL &&
           (entry = aeb_next_entry(plan, late, &cursor, &awaitable)) != NULL) {
        aeb_handler_task *delivery;
        bool lean = leanly && awaitable == NULL && !entry->sub->needs_delivery;
        if (AEB_LIKELY(lean)) {
            if (AEB_UNLIKELY(timed) && begin_measured(starter, &cursor, entry->sub) < 0) {
                status = -1;
                break;
            }
            status = run_lean(starter, entry, &delivery);
            if (AEB_LIKELY(status > 0)) {
                starter->n_over++;
                if (AEB_UNLIKELY(timed)) {
                    end_measured(starter, &cursor);
                }
                status = 0;
                continue;
            }
            if (status == 0 && delivery != NULL) {
                status = starter->keep(starter->owner, delivery);
            }
        }
        else {
            delivery = aeb_handler_task_new(starter->bus, entry, starter->occasion, awaitable);
            if (delivery == NULL) {
                cursor.next_late -= awaitable != NULL; /* it is still to be closed */
                status = -1;
                break;
            }
            delivery->took = cursor.took;
            status = start_adopted(starter, delivery);
        }
        starter->clock = 0; /* what follows has a beginning of its own */
        if (delivery != NULL) {
            aeb_handler_task_release(delivery);
        }
    }
    if (AEB_UNLIKELY(cursor.failed)) {
        Py_XSETREF(*starter->fatal, aeb_take_exception());
    }
    (void)AEB_ADD(starter->bus->n_delivered, (uint64_t)starter->n_over);
    aeb_close_late(starter->state, late, cursor.next_late);
    return status;
}

int
aeb_starter_start_prepared(aeb_starter *starter, PyObject *deliveries)
{
    int status = 0;
    for (Py_ssize_t i = 0; status == 0 && i < PyList_GET_SIZE(deliveries); i++) {
        aeb_handler_task *delivery = (aeb_handler_task *)PyList_GET_ITEM(deliveries, i);
        if (delivery->status != AEB_HANDLER_NEW) {
            continue; /* it has been closed */
        }
        if (*starter->fatal == NULL) {
            status = start_adopted(starter, delivery);
        }
        else { /* nothing more is called, so there is nothing to cancel or to count */
            (void)aeb_handler_task_settle(delivery, NULL);
        }
    }
    return status;
}

int
aeb_starter_start_alone(aeb_handler_task *delivery)
{
    /* Not on the C stack: see aeb_emission. */
    aeb_starter *starter = PyMem_Calloc(1, sizeof(aeb_starter));
    if (starter == NULL) {
        PyErr_NoMemory();
        return aeb_handler_task_fail(delivery);
    }
    starter->state = delivery->state;
    starter->bus = delivery->bus;
    starter->loop = delivery->loop;
    if (aeb_starter_begin(starter) < 0) {
        PyMem_Free(starter);
        return aeb_handler_task_fail(delivery);
    }
    starter->untracked = false; /* tasks that it makes may drain, and must find it then */
    int status = start_delivery(starter, delivery);
    aeb_starter_end(starter, status < 0);
    PyMem_Free(starter);
    return status;
}
