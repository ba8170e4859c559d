/* Emission: the coroutine object that emit_async returns.
 *
 *     CREATED --send--> STARTING --> WAITING --> DONE
 *
 * The first send does everything that can be done at once: the sync handlers run inline, then each
 * async handler takes its first step.  When some are still unfinished, the emission yields a future
 * of its own, the waiter, to the task that awaits it, and the last delivery to settle resolves it.
 * There is no done-callback and no gather: the deliveries count themselves down.
 *
 * Errors that must not be isolated (`fatal`) and exceptions thrown in by the awaiting task
 * (`thrown`) have the same effect: unfinished deliveries are cancelled and awaited, then the error
 * is raised.
 *
 * The children hold the emission and the emission the children until they settle; all are GC types.
 * Everything here runs in the thread of the loop that awaits the emission, if it is used as it should
 * be.  Who has found it CREATED, under its lock, and made it STARTING, has it for himself up to the end of
 * the first step, but for what settling children change; all the rest is done under the lock.
 */
#include "emission_object.h"

#include "aio.h"
#include "careful.h"
#include "coroutine.h"
#include "dispatch.h"
#include "handler_task.h"
#include "registry.h"
#include "report.h"
#include "starter.h"
#include "subscription.h"
#include "timing.h"

/* ---- deliveries ------------------------------------------------------------------------------ */

/* Asks every unfinished delivery to cancel. */
static void
cancel_children(aeb_emission *self)
{
    PyObject *children;
    AEB_LOCK(self);
    children = Py_XNewRef(self->children);
    AEB_UNLOCK();
    for (Py_ssize_t i = 0; children != NULL && i < PyList_GET_SIZE(children); i++) {
        aeb_handler_task_cancel((aeb_handler_task *)PyList_GET_ITEM(children, i));
    }
    Py_XDECREF(children);
}

/* What a delivery that is over took. */
AEB_NOINLINE void
note_child(aeb_emission *self, aeb_handler_task *child)
{
    if (self->watch != NULL) {
        aeb_watch_note(self->watch, child->sub, child->took);
    }
}

/* A delivery is over (aeb_settled). */
static bool
child_settled(aeb_handler_task *child, PyObject *fatal)
{
    aeb_emission *self = (aeb_emission *)child->owner;
    bool over, taken = true, cancel = false;
    PyObject *waiter = NULL;
    AEB_LOCK(self);
    self->n_unfinished--;
    self->n_called += child->called;
    if (AEB_UNLIKELY(child->began != 0)) {
        note_child(self, child);
    }
    over = self->status == EMISSION_DONE; /* closed by hand: nobody awaits this any more */
    if (!over && fatal != NULL && self->fatal == NULL) {
        self->fatal = Py_NewRef(fatal);
        cancel = self->status == EMISSION_WAITING;
    }
    else if (fatal != NULL) {
        /* Only one error can be raised.  The failure of a second guard can be reported instead. */
        taken = !PyErr_GivenExceptionMatches(fatal, PyExc_Exception);
    }
    AEB_UNLOCK();
    if (over) {
        return false;
    }
    if (cancel) {
        cancel_children(self);
    }
    AEB_LOCK(self);
    if (self->n_unfinished == 0) {
        waiter = Py_XNewRef(self->waiter); /* waking it can end this emission */
    }
    AEB_UNLOCK();
    if (waiter != NULL && aeb_aio_wake(self->bus->state, waiter) < 0 &&
        aeb_clear_ordinary_exception() < 0) {
        PyErr_WriteUnraisable(
            (PyObject *)self); /* an Exception: the loop is closed, nobody waits */
    }
    Py_XDECREF(waiter);
    return taken;
}

/* Makes a delivery one of this emission's (aeb_starter). */
static void
adopt_child(PyObject *owner, aeb_handler_task *child)
{
    aeb_emission *self = (aeb_emission *)owner;
    child->owner = Py_NewRef(owner);
    child->settled = child_settled;
    child->nested = self->nested;
    child->depth = self->base_depth + 1;
    child->parent = (aeb_handler_task *)Py_XNewRef((PyObject *)self->parent);
    AEB_LOCK(self);
    self->n_unfinished++;
    AEB_UNLOCK();
}

/* Remembers a delivery that has been started, unless it is over (aeb_starter). */
static int
keep_child(PyObject *owner, aeb_handler_task *child)
{
    aeb_emission *self = (aeb_emission *)owner;
    if (AEB_IS_OVER(child)) {
        return 0;
    }
    if (self->children == NULL) {
        PyObject *fresh = PyList_New(0);
        AEB_LOCK(self);
        self->children = fresh;
        AEB_UNLOCK();
    }
    if (self->children == NULL || PyList_Append(self->children, (PyObject *)child) < 0) {
        aeb_handler_task_cancel(child);
        return -1;
    }
    return 0;
}

/* Finds the loop, and the delivery whose handler emits, if one does; then begins to start handlers.
 * 0, and aeb_starter_end() must follow, or -1. */
static int
find_surroundings(aeb_emission *self, aeb_occasion *occasion)
{
    aeb_state *state = self->bus->state;
    aeb_starter *starter = &self->starter;
    if (aeb_aio_running_loop(state, &self->loop) < 0) {
        return -1;
    }
    if (self->loop == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "no running event loop: emit_async with async handlers "
                                            "must be awaited in one");
        return -1;
    }
    starter->state = state;
    starter->bus = self->bus;
    starter->loop = self->loop;
    starter->occasion = occasion;
    starter->owner = (PyObject *)self;
    starter->adopt = adopt_child;
    starter->keep = keep_child;
    starter->fatal = &self->fatal;
    if (aeb_starter_begin(starter) < 0) {
        return -1;
    }
    int status = aeb_handler_task_current(state, starter->outer, &self->parent);
    self->base_depth = aeb_handler_task_base_depth(state, self->parent);
    if (self->parent != NULL) {
        self->nested = true;
        status = aeb_handler_task_check_depth(self->parent);
    }
    if (status < 0) {
        aeb_starter_end(starter, true);
    }
    starter->exempt = self->nested;
    return status;
}

/* ---- steps ----------------------------------------------------------------------------------- */

/* What there is to do first for a plan with flags.  0 or -1. */
AEB_NOINLINE int
prepare_specially(aeb_emission *self, aeb_plan *plan)
{
    aeb_occasion *occasion = &self->occasion;
    if (self->bus->slow_after > 0.0) {
        self->watch = aeb_watch_new();
        if (self->watch == NULL) {
            return -1;
        }
        self->watch->began = aeb_monotonic_ns();
    }
    occasion->watch = self->watch;
    return aeb_dispatch_prepare(self->bus, plan, occasion);
}

/* Asks the conditions of async handlers, before anything is got ready for starting them, which takes
 * longer than that: up to the first one that has none or says yes.  Where in the plan that is; -1 with an
 * error that must propagate. */
AEB_NOINLINE Py_ssize_t
first_wanted(aeb_emission *self, aeb_plan *plan)
{
    Py_ssize_t i = plan->n_sync;
    for (; i < plan->n_entries; i++) {
        int answer =
            aeb_ask(self->bus, plan->entries[i].sub, &self->occasion, true, self->starter.nested);
        if (answer != 0) {
            self->starter.wanted = answer > 0;
            return answer < 0 ? -1 : i;
        }
    }
    return i;
}

/* Sync handlers, then the first steps of the async ones.  -1: the error is set, to be raised once
 * the children that did start are over. */
static int
run_plan(aeb_emission *self, aeb_plan *plan, bool nested)
{
    aeb_occasion *occasion = &self->occasion;
    occasion->name = self->name;
    occasion->payload = self->payload;
    occasion->event = NULL;
    occasion->outcomes = self->outcomes;
    occasion->guard_failed = false;
    occasion->awaited = true;
    occasion->published = self->published;
    PyObject *late = NULL;
    int status = -1;
    Py_ssize_t called = AEB_UNLIKELY(plan->flags) ? prepare_specially(self, plan) : 0;
    if (called == 0 && plan->n_sync > 0) {
        called = AEB_UNLIKELY(self->outcomes != NULL)
                     ? aeb_dispatch_carefully(self->bus, plan, occasion, nested, &late)
                     : aeb_dispatch_sync(self->bus, plan, occasion, nested, &late);
    }
    if (called >= 0) {
        self->n_called = called;
        self->nested = self->starter.nested = nested;
        status = 0;
        Py_ssize_t first = plan->n_sync;
        self->starter.wanted = false;
        if (late == NULL && AEB_UNLIKELY(plan->flags & AEB_PLAN_CAREFUL)) {
            first = first_wanted(self, plan);
        }
        self->starter.first = first;
        if (first < 0) {
            self->fatal = aeb_take_exception();
        }
        else if (late != NULL || first < plan->n_entries) {
            status = find_surroundings(self, occasion);
            if (status == 0) {
                status = aeb_starter_start_plan(&self->starter, plan, late);
                self->n_called += self->starter.n_over;
                aeb_starter_end(&self->starter, status < 0);
            }
            else {
                aeb_close_late(self->bus->state, late, 0);
            }
        }
    }
    else {
        aeb_close_late(self->bus->state, late, 0);
        if (occasion->guard_failed) {
            self->fatal = aeb_take_exception();
            status = 0;
        }
    }
    Py_XDECREF(late);
    Py_CLEAR(occasion->event);
    return status;
}

/* Everything up to the point where the emission must wait. */
static int
emission_begin(aeb_emission *self)
{
    aeb_bus *bus = self->bus;
    if (self->deliveries != NULL) {
        if (find_surroundings(self, NULL) < 0) {
            return -1;
        }
        int status = aeb_starter_start_prepared(&self->starter, self->deliveries);
        aeb_starter_end(&self->starter, status < 0);
        return status;
    }
    if (AEB_LOAD(bus->closed)) {
        return aeb_report_closed(bus, self->name);
    }
    aeb_plan *plan = AEB_UNLIKELY(self->published)
                         ? aeb_registry_class_plan(bus, Py_TYPE(self->payload))
                         : aeb_registry_plan(bus, self->name);
    if (plan == NULL) {
        return -1;
    }
    if (self->name != plan->name) {
        PyObject *before;
        AEB_LOCK(self); /* repr() shows it */
        before = self->name;
        self->name = Py_NewRef(plan->name);
        AEB_UNLOCK();
        Py_DECREF(before);
    }
    uint64_t seq = aeb_take_early_number(bus, plan);
    int status = 0;
    if (aeb_dispatch_needed(plan)) {
        self->occasion.seq = seq;
        int nested = aeb_dispatch_enter(bus->state);
        status = nested < 0 ? -1 : run_plan(self, plan, nested);
        if (nested >= 0) {
            aeb_dispatch_leave(bus->state, nested);
        }
    }
    Py_DECREF(plan);
    return status;
}

/* Whether an error that ended the emission is the failure of a guard.  A nested RecursionError is
 * raised whoever it is from (see aeb_dispatch_enter()), unless it has been accounted for already. */
bool
aeb_emission_is_guards(const aeb_emission *self, PyObject *fatal)
{
    PyObject *cancelled_error = self->bus->state->cancelled_error;
    if (self->nested && !self->occasion.guard_failed &&
        PyErr_GivenExceptionMatches(fatal, PyExc_RecursionError)) {
        return false;
    }
    return PyErr_GivenExceptionMatches(fatal, PyExc_Exception) ||
           (cancelled_error != NULL && PyErr_GivenExceptionMatches(fatal, cancelled_error));
}

/* It is over: says so when it took too long.  What must propagate now: `fatal_steal`, or what came
 * out of saying it. */
AEB_NOINLINE PyObject *
end_watch(aeb_emission *self, PyObject *fatal_steal)
{
    aeb_watch *watch = self->watch;
    if (watch->began == 0) {
        return fatal_steal; /* see aeb_emission_tell_watch() */
    }
    self->watch = NULL;
    if (aeb_watch_end(self->bus, watch, self->name, self->nested, false) < 0) {
        if (fatal_steal == NULL) {
            fatal_steal = aeb_take_exception();
        }
        else {
            PyErr_WriteUnraisable((PyObject *)self);
        }
    }
    aeb_watch_free(watch);
    return fatal_steal;
}

void
aeb_emission_tell_watch(PyObject *emission, aeb_watch *watch)
{
    aeb_emission *self = (aeb_emission *)emission;
    aeb_watch *own = self->watch;
    self->watch = NULL;
    if (own != NULL && own->slowest != NULL && watch != NULL) {
        aeb_watch_note(watch, own->slowest, own->longest);
    }
    aeb_watch_free(own);
}

/* The rest of the end where there is an error or a watch. */
AEB_NOINLINE PySendResult
finish_specially(aeb_emission *self, PyObject *fatal_steal, PyObject *thrown_steal)
{
    PyObject *fatal = self->watch == NULL ? fatal_steal : end_watch(self, fatal_steal);
    if (self->outcomes != NULL && fatal != NULL && aeb_emission_is_guards(self, fatal)) {
        Py_CLEAR(fatal); /* it is among the outcomes */
    }
    if (fatal != NULL && thrown_steal != NULL && aeb_emission_is_guards(self, fatal)) {
        /* A cancellation that came while the others cleaned up must not be lost. */
        if (fatal != thrown_steal) {
            PyException_SetContext(thrown_steal, Py_NewRef(fatal));
        }
        Py_CLEAR(fatal);
    }
    if (fatal != NULL) {
        Py_XDECREF(thrown_steal);
        aeb_raise_in_coroutine_steal(fatal);
        return PYGEN_ERROR;
    }
    if (thrown_steal != NULL) {
        aeb_raise_in_coroutine_steal(thrown_steal);
        return PYGEN_ERROR;
    }
    return PYGEN_RETURN;
}

/* The end: raises what has to be raised.  Otherwise the answer is the number of handlers called, but
 * that is left to those who call the steps, for they need it in different forms. */
static inline PySendResult
emission_finish(aeb_emission *self, PyObject **result)
{
    PyObject *fatal = self->fatal, *thrown = self->thrown, *payload = self->payload;
    self->status = EMISSION_DONE;
    self->fatal = self->thrown = NULL;
    self->payload = Py_NewRef(Py_None); /* whoever keeps this object need not keep that */
    Py_DECREF(payload);
    Py_CLEAR(self->children);
    Py_CLEAR(self->deliveries);
    Py_CLEAR(self->waiter);
    Py_CLEAR(self->parent);
    Py_CLEAR(self->loop);
    *result = NULL;
    if (AEB_UNLIKELY(fatal != NULL || thrown != NULL || self->watch != NULL)) {
        return finish_specially(self, fatal, thrown);
    }
    return PYGEN_RETURN;
}

/* An error for a send or throw that finds the emission in no state for it. */
static PySendResult
emission_misused(aeb_emission *self)
{
    if (self->status == EMISSION_STARTING) {
        PyErr_SetString(PyExc_ValueError, "coroutine already executing");
    }
    else {
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
    }
    return PYGEN_ERROR;
}

/* Yields a waiter, while something is unfinished. */
AEB_NOINLINE PySendResult
emission_suspend(aeb_emission *self, PyObject **result)
{
    while (self->n_unfinished > 0) {
        PyObject *waiter = aeb_aio_new_waiter(self->bus->state, self->loop);
        if (waiter == NULL) {
            /* There is no way to wait: at least nothing goes on unseen. */
            PyObject *exc = aeb_take_exception();
            cancel_children(self);
            Py_XSETREF(self->thrown, exc);
            break;
        }
        if (self->n_unfinished == 0) { /* the allocation ran a finaliser that ended the last one */
            Py_DECREF(waiter);
            break;
        }
        if (self->status == EMISSION_DONE) { /* as above, and it closed this emission */
            Py_DECREF(waiter);
            return emission_misused(self);
        }
        Py_XSETREF(self->waiter, waiter);
        self->status = EMISSION_WAITING;
        *result = Py_NewRef(waiter);
        return PYGEN_NEXT;
    }
    return emission_finish(self, result);
}

/* Ends when nothing is unfinished, else yields a waiter. */
static inline PySendResult
emission_wait(aeb_emission *self, PyObject **result)
{
    return AEB_LIKELY(self->n_unfinished == 0) ? emission_finish(self, result)
                                               : emission_suspend(self, result);
}

static PySendResult
emission_first_step(aeb_emission *self, PyObject **result)
{
    if (emission_begin(self) < 0) {
        Py_XSETREF(self->thrown, aeb_take_exception());
    }
    if (self->fatal != NULL || self->thrown != NULL) {
        cancel_children(self);
    }
    PySendResult sent;
    AEB_LOCK(self);
    sent = emission_wait(self, result);
    AEB_UNLOCK();
    return sent;
}

/* The task is back from its waiter, or another task has got hold of the emission. */
static PySendResult
emission_resume(aeb_emission *self, PyObject **result)
{
    if (self->n_unfinished > 0) {
        PyObject *waiter = Py_NewRef(self->waiter);
        int done = aeb_aio_is_done(self->bus->state, waiter);
        Py_DECREF(waiter);
        if (done == 0) {
            PyErr_SetString(PyExc_RuntimeError, "coroutine is being awaited already");
        }
        if (done <= 0) {
            return PYGEN_ERROR;
        }
        if (self->status == EMISSION_DONE) { /* the future's own code has closed this emission */
            return emission_misused(self);
        }
    }
    return emission_wait(self, result);
}

/* A send to one that is not CREATED, or cannot be begun with this value. */
AEB_NOINLINE PySendResult
emission_send_further_locked(aeb_emission *self, PyObject **result)
{
    switch (self->status) {
    case EMISSION_CREATED:
        PyErr_SetString(PyExc_TypeError, AEB_FIRST_SEND);
        return PYGEN_ERROR;
    case EMISSION_WAITING:
        return emission_resume(self, result);
    default:
        return emission_misused(self);
    }
}

PySendResult
aeb_emission_step(aeb_emission *self, PyObject *value, PyObject **result)
{
    PySendResult sent = PYGEN_ERROR;
    bool begins;
    *result = NULL;
    AEB_LOCK(self);
    begins = self->status == EMISSION_CREATED && value == Py_None;
    if (AEB_LIKELY(begins)) {
        self->status = EMISSION_STARTING;
    }
    else {
        sent = emission_send_further_locked(self, result);
    }
    AEB_UNLOCK();
    return AEB_LIKELY(begins) ? emission_first_step(self, result) : sent;
}

static PySendResult
throw_locked(aeb_emission *self, PyObject *exc, PyObject **result)
{
    switch (self->status) {
    case EMISSION_CREATED:
        self->thrown = Py_NewRef(exc);
        return emission_finish(self, result);
    case EMISSION_WAITING:
        Py_XSETREF(self->thrown, Py_NewRef(exc));
        cancel_children(self);
        if (self->status == EMISSION_DONE) { /* something that was cancelled has closed it */
            aeb_restore_exception_steal(Py_NewRef(exc));
            return PYGEN_ERROR;
        }
        if (PyErr_GivenExceptionMatches(exc, PyExc_GeneratorExit)) {
            return emission_finish(self, result); /* as close(): there is no waiting after it */
        }
        return emission_wait(self, result);
    default:
        return emission_misused(self);
    }
}

PySendResult
aeb_emission_throw(aeb_emission *self, PyObject *exc, PyObject **result)
{
    PySendResult sent;
    *result = NULL;
    AEB_LOCK(self);
    sent = throw_locked(self, exc, result);
    AEB_UNLOCK();
    return sent;
}

static int
close_locked(aeb_emission *self)
{
    if (self->status == EMISSION_STARTING) {
        (void)emission_misused(self);
        return -1;
    }
    if (self->status != EMISSION_DONE) {
        PyObject *result;
        cancel_children(self);
        if (emission_finish(self, &result) == PYGEN_ERROR) {
            return -1;
        }
    }
    return 0;
}

int
aeb_emission_close(aeb_emission *self)
{
    int status;
    AEB_LOCK(self);
    status = close_locked(self);
    AEB_UNLOCK();
    return status;
}
