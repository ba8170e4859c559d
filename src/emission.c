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
 * Everything here runs in the thread of the loop that awaits the emission.
 */
#include "emission.h"

#include "aio.h"
#include "coroutine.h"
#include "dispatch.h"
#include "handler_task.h"
#include "registry.h"
#include "report.h"
#include "starter.h"
#include "subscription.h"

typedef enum {
    EMISSION_CREATED,
    EMISSION_STARTING, /* the first send is on the stack */
    EMISSION_WAITING,
    EMISSION_DONE,
} emission_status;

typedef struct {
    PyObject_HEAD
    aeb_bus *bus; /* strong */
    PyObject *name;
    PyObject *payload;
    PyObject *deliveries; /* list of HandlerTask to run instead of a plan, or NULL */
    PyObject *children;   /* list of HandlerTask that did not finish at once, or NULL */
    PyObject *loop;
    PyObject *waiter;
    PyObject *fatal;
    PyObject *thrown;
    aeb_handler_task *parent; /* strong: the delivery whose handler awaits this, or NULL */
    Py_ssize_t base_depth; /* of handlers waiting above this */
    Py_ssize_t n_unfinished;
    Py_ssize_t n_called;
    emission_status status;
    bool nested;
    PyObject *weakrefs;
} aeb_emission;

static aeb_emission *
emission_alloc(aeb_bus *bus, PyObject *name, PyObject *payload)
{
    aeb_state *state = bus->state;
    aeb_emission *self;
    if (AEB_LIKELY(state->n_free_emissions > 0 && state->emission_type != NULL)) {
        self = state->free_emissions[--state->n_free_emissions];
        (void)PyObject_Init((PyObject *)self, state->emission_type);
        /* One by one, for compilers make a slow string instruction of a memset of this size.  A bare
         * emission has nothing in the other fields. */
        self->base_depth = self->n_unfinished = self->n_called = 0;
        self->status = EMISSION_CREATED;
        self->nested = false;
        PyObject_GC_Track((PyObject *)self);
    }
    else {
        self = aeb_type_alloc(state->emission_type, 0);
    }
    if (self != NULL) {
        self->bus = (aeb_bus *)Py_NewRef((PyObject *)bus);
        self->name = Py_NewRef(name);
        self->payload = Py_NewRef(payload);
    }
    return self;
}

void
aeb_emission_forget(aeb_state *state)
{
    while (state->n_free_emissions > 0) {
        PyObject_GC_Del(state->free_emissions[--state->n_free_emissions]);
    }
}

PyObject *
aeb_emission_new(aeb_bus *bus, PyObject *name, PyObject *payload)
{
    return (PyObject *)emission_alloc(bus, name, payload);
}

PyObject *
aeb_emission_of_deliveries(aeb_bus *bus, PyObject *name, PyObject *deliveries, bool nested)
{
    aeb_emission *self = emission_alloc(bus, name, Py_None);
    if (self != NULL) {
        self->deliveries = Py_NewRef(deliveries);
        self->nested = nested;
    }
    return (PyObject *)self;
}

/* ---- deliveries ------------------------------------------------------------------------------ */

/* Asks every unfinished delivery to cancel. */
static void
cancel_children(aeb_emission *self)
{
    PyObject *children = Py_XNewRef(self->children);
    for (Py_ssize_t i = 0; children != NULL && i < PyList_GET_SIZE(children); i++) {
        aeb_handler_task_cancel((aeb_handler_task *)PyList_GET_ITEM(children, i));
    }
    Py_XDECREF(children);
}

/* A delivery is over (aeb_settled). */
static bool
child_settled(aeb_handler_task *child, PyObject *fatal)
{
    aeb_emission *self = (aeb_emission *)child->owner;
    self->n_unfinished--;
    self->n_called += child->called;
    if (self->status == EMISSION_DONE) {
        return false; /* closed by hand: nobody awaits this any more */
    }
    if (fatal != NULL && self->fatal == NULL) {
        self->fatal = Py_NewRef(fatal);
        if (self->status == EMISSION_WAITING) {
            cancel_children(self);
        }
    }
    if (self->n_unfinished == 0 && self->waiter != NULL &&
        aeb_aio_wake(self->bus->state, self->waiter) < 0 && aeb_clear_ordinary_exception() < 0) {
        PyErr_WriteUnraisable(
            (PyObject *)self); /* an Exception: the loop is closed, nobody waits */
    }
    return true;
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
    self->n_unfinished++;
}

/* Remembers a delivery that has been started, unless it is over (aeb_starter). */
static int
keep_child(PyObject *owner, aeb_handler_task *child)
{
    aeb_emission *self = (aeb_emission *)owner;
    if (child->status == AEB_HANDLER_DONE) {
        return 0;
    }
    if (self->children == NULL) {
        self->children = PyList_New(0);
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
find_surroundings(aeb_emission *self, aeb_occasion *occasion, aeb_starter *starter)
{
    aeb_state *state = self->bus->state;
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

/* Sync handlers, then the first steps of the async ones.  -1: the error is set, to be raised once
 * the children that did start are over. */
static int
run_plan(aeb_emission *self, aeb_plan *plan, bool nested)
{
    aeb_occasion occasion = {
        .name = self->name,
        .payload = self->payload,
        .seq = self->bus->seq,
    };
    PyObject *late = NULL;
    int status = -1;
    Py_ssize_t called = aeb_dispatch_begin(self->bus, plan, &occasion);
    if (called == 0 && plan->n_sync > 0) {
        called = aeb_dispatch_sync(self->bus, plan, &occasion, nested, &late);
    }
    if (called >= 0) {
        self->n_called = called;
        self->nested = nested;
        status = 0;
        if (late != NULL || plan->n_sync < plan->n_entries) {
            aeb_starter starter;
            status = find_surroundings(self, &occasion, &starter);
            if (status == 0) {
                status = aeb_starter_start_plan(&starter, plan, late);
                self->n_called += starter.n_over;
                aeb_starter_end(&starter, status < 0);
            }
            else {
                aeb_close_late(self->bus->state, late, 0);
            }
        }
    }
    else {
        aeb_close_late(self->bus->state, late, 0);
    }
    Py_XDECREF(late);
    Py_XDECREF(occasion.event);
    return status;
}

/* Everything up to the point where the emission must wait. */
static int
emission_begin(aeb_emission *self)
{
    aeb_bus *bus = self->bus;
    if (self->deliveries != NULL) {
        aeb_starter starter;
        if (find_surroundings(self, NULL, &starter) < 0) {
            return -1;
        }
        int status = aeb_starter_start_prepared(&starter, self->deliveries);
        aeb_starter_end(&starter, status < 0);
        return status;
    }
    if (bus->closed) {
        return aeb_report_closed(bus, self->name);
    }
    PyObject *name;
    aeb_plan *plan = aeb_registry_plan(bus, self->name, &name);
    if (plan == NULL) {
        return -1;
    }
    Py_SETREF(self->name, name);
    bus->seq++;
    int status = 0;
    if (plan->n_entries > 0) {
        int nested = aeb_dispatch_enter(bus->state);
        status = nested < 0 ? -1 : run_plan(self, plan, nested);
        if (nested >= 0) {
            aeb_dispatch_leave(bus->state, nested);
        }
    }
    Py_DECREF(plan);
    return status;
}

/* The end: raises what has to be raised.  Otherwise the answer is the number of handlers called, but
 * that is left to those who call the steps, for they need it in different forms. */
static PySendResult
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
    if (fatal != NULL) {
        Py_XDECREF(thrown);
        aeb_restore_exception_steal(fatal);
        return PYGEN_ERROR;
    }
    if (thrown != NULL) {
        aeb_restore_exception_steal(thrown);
        return PYGEN_ERROR;
    }
    return PYGEN_RETURN;
}

/* Ends when nothing is unfinished, else yields a waiter. */
static PySendResult
emission_wait(aeb_emission *self, PyObject **result)
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
        Py_XSETREF(self->waiter, waiter);
        self->status = EMISSION_WAITING;
        *result = Py_NewRef(waiter);
        return PYGEN_NEXT;
    }
    return emission_finish(self, result);
}

static PySendResult
emission_first_step(aeb_emission *self, PyObject **result)
{
    self->status = EMISSION_STARTING;
    if (emission_begin(self) < 0) {
        Py_XSETREF(self->thrown, aeb_take_exception());
    }
    if (self->fatal != NULL || self->thrown != NULL) {
        cancel_children(self);
    }
    return emission_wait(self, result);
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

/* The task is back from its waiter, or another task has got hold of the emission. */
static PySendResult
emission_resume(aeb_emission *self, PyObject **result)
{
    if (self->n_unfinished > 0) {
        int done = aeb_aio_is_done(self->bus->state, self->waiter);
        if (done == 0) {
            PyErr_SetString(PyExc_RuntimeError, "coroutine is being awaited already");
        }
        if (done <= 0) {
            return PYGEN_ERROR;
        }
    }
    return emission_wait(self, result);
}

/* One step.  *result is what it yields. */
static PySendResult
emission_step(aeb_emission *self, PyObject *value, PyObject **result)
{
    *result = NULL;
    switch (self->status) {
    case EMISSION_CREATED:
        if (value != Py_None) {
            PyErr_SetString(PyExc_TypeError, AEB_FIRST_SEND);
            return PYGEN_ERROR;
        }
        return emission_first_step(self, result);
    case EMISSION_WAITING:
        return emission_resume(self, result);
    default:
        return emission_misused(self);
    }
}

static PySendResult
emission_throw_exception(aeb_emission *self, PyObject *exc, PyObject **result)
{
    *result = NULL;
    switch (self->status) {
    case EMISSION_CREATED:
        self->thrown = Py_NewRef(exc);
        return emission_finish(self, result);
    case EMISSION_WAITING:
        Py_XSETREF(self->thrown, Py_NewRef(exc));
        cancel_children(self);
        if (PyErr_GivenExceptionMatches(exc, PyExc_GeneratorExit)) {
            return emission_finish(self, result); /* as close(): there is no waiting after it */
        }
        return emission_wait(self, result);
    default:
        return emission_misused(self);
    }
}

/* ---- the Python type ------------------------------------------------------------------------- */

/* The answer of send() or throw(): a value, or StopIteration with the number of handlers. */
static PyObject *
send_result(aeb_emission *self, PySendResult status, PyObject *result)
{
    if (status == PYGEN_RETURN) {
        aeb_raise_stop_iteration(self->bus->state, self->n_called);
        return NULL;
    }
    return result;
}

static PyObject *
emission_send(aeb_emission *self, PyObject *value)
{
    PyObject *result;
    PySendResult status = emission_step(self, value, &result);
    return send_result(self, status, result);
}

#if PY_VERSION_HEX >= 0x030A0000
static PySendResult
emission_am_send(aeb_emission *self, PyObject *value, PyObject **result)
{
    PySendResult status = emission_step(self, value, result);
    if (status == PYGEN_RETURN) {
        *result = PyLong_FromSsize_t(self->n_called);
        return *result == NULL ? PYGEN_ERROR : PYGEN_RETURN;
    }
    return status;
}
#endif

static PyObject *
emission_next(aeb_emission *self)
{
    return emission_send(self, Py_None);
}

static PyObject *
emission_throw(aeb_emission *self, PyObject *args)
{
    PyObject *exc = aeb_thrown_exception(args), *result;
    if (exc == NULL) {
        return NULL;
    }
    PySendResult status = emission_throw_exception(self, exc, &result);
    Py_DECREF(exc);
    return send_result(self, status, result);
}

static PyObject *
emission_close(aeb_emission *self, PyObject *Py_UNUSED(ignored))
{
    if (self->status == EMISSION_STARTING) {
        (void)emission_misused(self);
        return NULL;
    }
    if (self->status != EMISSION_DONE) {
        PyObject *result;
        cancel_children(self);
        if (emission_finish(self, &result) == PYGEN_ERROR) {
            return NULL;
        }
    }
    Py_RETURN_NONE;
}

static PyObject *
emission_await(aeb_emission *self)
{
    switch (self->status) {
    case EMISSION_CREATED:
        return Py_NewRef((PyObject *)self);
    case EMISSION_DONE:
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
        return NULL;
    default:
        PyErr_SetString(PyExc_RuntimeError, "coroutine is being awaited already");
        return NULL;
    }
}

static PyObject *
emission_repr(aeb_emission *self)
{
    static const char *const states[] = {"created", "running", "waiting", "done"};
    return PyUnicode_FromFormat("<coroutine object EventBus.emit_async for event %R, %s>",
                                self->name, states[self->status]);
}

static PyObject *
emission_get_name(aeb_emission *Py_UNUSED(self), void *text)
{
    return PyUnicode_FromString((const char *)text);
}

static PyObject *
emission_get_running(aeb_emission *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(self->status == EMISSION_STARTING);
}

static PyMethodDef emission_methods[] = {
    {"send", AEB_METHOD(emission_send), METH_O, PyDoc_STR("One step of the coroutine.")},
    {"throw", AEB_METHOD(emission_throw), METH_VARARGS, PyDoc_STR("One step, with an exception.")},
    {"close", AEB_METHOD(emission_close), METH_NOARGS,
     PyDoc_STR("End it: unfinished handlers are cancelled and not awaited.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef emission_getset[] = {
    {"__name__", (getter)emission_get_name, NULL, NULL, "emit_async"},
    {"__qualname__", (getter)emission_get_name, NULL, NULL, "EventBus.emit_async"},
    {"cr_running", (getter)emission_get_running, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef emission_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(aeb_emission, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static int
emission_traverse(aeb_emission *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->bus);
    Py_VISIT(self->name);
    Py_VISIT(self->payload);
    Py_VISIT(self->deliveries);
    Py_VISIT(self->children);
    Py_VISIT(self->loop);
    Py_VISIT(self->waiter);
    Py_VISIT(self->fatal);
    Py_VISIT(self->thrown);
    Py_VISIT(self->parent);
    return 0;
}

/* Breaks cycles.  Done, and with bus, name and payload still there, every method remains safe. */
static int
emission_clear(aeb_emission *self)
{
    self->status = EMISSION_DONE;
    Py_CLEAR(self->deliveries);
    Py_CLEAR(self->children);
    Py_CLEAR(self->loop);
    Py_CLEAR(self->waiter);
    Py_CLEAR(self->fatal);
    Py_CLEAR(self->thrown);
    Py_CLEAR(self->parent);
    return 0;
}

static void
emission_finalize(PyObject *obj)
{
    aeb_emission *self = (aeb_emission *)obj;
    if (self->status != EMISSION_CREATED) {
        return;
    }
    PyObject *exc = aeb_take_exception();
    self->status = EMISSION_DONE;
    if (PyErr_WarnFormat(PyExc_RuntimeWarning, 1,
                         "coroutine 'EventBus.emit_async' for event %R was never awaited",
                         self->name) < 0) {
        PyErr_WriteUnraisable(obj);
    }
    aeb_restore_exception_steal(exc);
}

/* Whether it went the way of most: awaited to its end, and never referred to weakly. */
static bool
emission_is_bare(aeb_emission *self)
{
    return self->status == EMISSION_DONE && self->weakrefs == NULL && self->loop == NULL &&
           self->waiter == NULL && self->children == NULL && self->deliveries == NULL &&
           self->fatal == NULL && self->thrown == NULL && self->parent == NULL;
}

/* Keeps the memory of a bare emission for the next one.  No finaliser has run on it, else the next
 * one would go without. */
static void
emission_recycle(aeb_emission *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject *name = self->name, *payload = self->payload, *bus = (PyObject *)self->bus;
    aeb_state *state = self->bus->state;
    PyObject_GC_UnTrack(self);
    state->free_emissions[state->n_free_emissions++] = self;
    Py_DECREF(payload);
    Py_DECREF(name);
    Py_DECREF(type);
    Py_DECREF(bus); /* last, for it keeps the state */
}

static void
emission_dealloc(aeb_emission *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (AEB_LIKELY(emission_is_bare(self) && !PyObject_GC_IsFinalized((PyObject *)self) &&
                   self->bus->state->n_free_emissions < AEB_MAX_FREE)) {
        emission_recycle(self);
        return;
    }
    if (PyObject_CallFinalizerFromDealloc((PyObject *)self) < 0) {
        return;
    }
    PyObject_GC_UnTrack(self);
    AEB_TRASHCAN_BEGIN(self, emission_dealloc)
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    (void)emission_clear(self);
    Py_CLEAR(self->payload);
    Py_CLEAR(self->name);
    Py_CLEAR(self->bus);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
    AEB_TRASHCAN_END
}

PyDoc_STRVAR(emission_doc, "The coroutine object that EventBus.emit_async() returns.");

static PyType_Slot emission_slots[] = {
    {Py_tp_doc, (void *)emission_doc},   {Py_tp_dealloc, emission_dealloc},
    {Py_tp_traverse, emission_traverse}, {Py_tp_clear, emission_clear},
    {Py_tp_finalize, emission_finalize}, {Py_tp_repr, emission_repr},
    {Py_tp_iter, PyObject_SelfIter},     {Py_tp_iternext, emission_next},
    {Py_am_await, emission_await},
#if PY_VERSION_HEX >= 0x030A0000
    {Py_am_send, emission_am_send},
#endif
    {Py_tp_methods, emission_methods},   {Py_tp_getset, emission_getset},
    {Py_tp_members, emission_members},   {0, NULL},
};

static PyType_Spec emission_spec = {
    .name = "agent_event_bus._core.Emission",
    .basicsize = sizeof(aeb_emission),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = emission_slots,
};

int
aeb_emission_init_type(PyObject *module, aeb_state *state)
{
    return aeb_state_add_type(module, &emission_spec, &state->emission_type, false);
}
