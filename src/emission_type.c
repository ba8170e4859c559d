/* The type of emissions, as Python sees it: the coroutine protocol, and the life of the objects. */
#include "coroutine.h"
#include "emission_object.h"
#include "outcome.h"
#include "subscription.h"
#include "timing.h"

/* ---- making and keeping them ----------------------------------------------------------------- */

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
        self->nested = self->collects = self->published = false;
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
aeb_emission_new_collecting(aeb_bus *bus, PyObject *name, PyObject *payload)
{
    PyObject *outcomes = PyList_New(0);
    aeb_emission *self = outcomes == NULL ? NULL : emission_alloc(bus, name, payload);
    if (self == NULL) {
        Py_XDECREF(outcomes);
        return NULL;
    }
    self->outcomes = outcomes;
    self->collects = true;
    return (PyObject *)self;
}

PyObject *
aeb_emission_of_object(aeb_bus *bus, PyObject *obj)
{
    PyObject *name = aeb_class_name(Py_TYPE(obj));
    aeb_emission *self = name == NULL ? NULL : emission_alloc(bus, name, obj);
    Py_XDECREF(name);
    if (self != NULL) {
        self->published = true;
    }
    return (PyObject *)self;
}

PyObject *
aeb_emission_of_deliveries(aeb_bus *bus, PyObject *name, PyObject *deliveries, PyObject *outcomes,
                           bool nested)
{
    aeb_emission *self = emission_alloc(bus, name, Py_None);
    if (self != NULL) {
        self->deliveries = Py_NewRef(deliveries);
        self->outcomes = Py_XNewRef(outcomes);
        self->nested = nested;
        if (bus->slow_after > 0.0 && (self->watch = aeb_watch_new()) == NULL) {
            self->status = EMISSION_DONE; /* it will never be awaited, and must not warn of that */
            Py_CLEAR(self);
        }
    }
    return (PyObject *)self;
}

/* ---- the Python type ------------------------------------------------------------------------- */

/* The outcomes as the answer, a new reference. */
AEB_NOINLINE PyObject *
take_outcomes(aeb_emission *self)
{
    PyObject *outcomes;
    AEB_LOCK(self);
    outcomes = self->outcomes;
    self->outcomes = NULL;
    AEB_UNLOCK();
    if (outcomes == NULL) { /* another thread that drove it at the same time has them */
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
    }
    else if (aeb_outcomes_finish(outcomes) < 0) {
        Py_CLEAR(outcomes);
    }
    return outcomes;
}

/* What an emission that is over answers, a new reference: the number of handlers or their outcomes. */
static inline PyObject *
take_answer(aeb_emission *self)
{
    return AEB_LIKELY(self->outcomes == NULL) ? PyLong_FromSsize_t(self->n_called)
                                              : take_outcomes(self);
}

/* The answer of send() or throw(): a value, or StopIteration with the emission's answer. */
static PyObject *
send_result(aeb_emission *self, PySendResult status, PyObject *result)
{
    if (status == PYGEN_RETURN) {
        PyObject *answer = take_answer(self);
        if (answer != NULL) {
            PyErr_SetObject(PyExc_StopIteration, answer);
            Py_DECREF(answer);
        }
        return NULL;
    }
    return result;
}

static PyObject *
emission_send(aeb_emission *self, PyObject *value)
{
    PyObject *result;
    PySendResult status = aeb_emission_step(self, value, &result);
    return send_result(self, status, result);
}

#if PY_VERSION_HEX >= 0x030A0000
static PySendResult
emission_am_send(aeb_emission *self, PyObject *value, PyObject **result)
{
    PySendResult status = aeb_emission_step(self, value, result);
    if (status == PYGEN_RETURN) {
        *result = take_answer(self);
        return *result == NULL ? PYGEN_ERROR : PYGEN_RETURN;
    }
    return status;
}
#endif

static PyObject *
emission_next(aeb_emission *self)
{
    PyObject *result;
    PySendResult status = aeb_emission_step(self, Py_None, &result);
    if (AEB_LIKELY(status == PYGEN_RETURN && self->outcomes == NULL)) {
        aeb_raise_stop_iteration(self->bus->state, self->n_called);
        return NULL;
    }
    return send_result(self, status, result);
}

static PyObject *
emission_throw(aeb_emission *self, PyObject *args)
{
    PyObject *exc = aeb_thrown_exception(args), *result;
    if (exc == NULL) {
        return NULL;
    }
    PySendResult status = aeb_emission_throw(self, exc, &result);
    Py_DECREF(exc);
    return send_result(self, status, result);
}

static PyObject *
emission_close(aeb_emission *self, PyObject *Py_UNUSED(ignored))
{
    if (aeb_emission_close(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* For those who do not have it for themselves: another thread may be driving it. */
static emission_status
status_of(aeb_emission *self)
{
    emission_status status;
    AEB_LOCK(self);
    status = self->status;
    AEB_UNLOCK();
    return status;
}

static PyObject *
emission_await(aeb_emission *self)
{
    switch (status_of(self)) {
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

static const char *
method_name(const aeb_emission *self)
{
    return self->published ? "publish_async" : self->collects ? "collect_async" : "emit_async";
}

static PyObject *
emission_repr(aeb_emission *self)
{
    static const char *const states[] = {"created", "running", "waiting", "done"};
    PyObject *name;
    emission_status status;
    AEB_LOCK(self);
    name = Py_NewRef(self->name);
    status = self->status;
    AEB_UNLOCK();
    PyObject *text = PyUnicode_FromFormat("<coroutine object EventBus.%s for event %R, %s>",
                                          method_name(self), name, states[status]);
    Py_DECREF(name);
    return text;
}

static PyObject *
emission_get_name(aeb_emission *self, void *prefix)
{
    return PyUnicode_FromFormat("%s%s", (const char *)prefix, method_name(self));
}

static PyObject *
emission_get_running(aeb_emission *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(status_of(self) == EMISSION_STARTING);
}

static PyMethodDef emission_methods[] = {
    {"send", AEB_METHOD(emission_send), METH_O, PyDoc_STR("One step of the coroutine.")},
    {"throw", AEB_METHOD(emission_throw), METH_VARARGS, PyDoc_STR("One step, with an exception.")},
    {"close", AEB_METHOD(emission_close), METH_NOARGS,
     PyDoc_STR("End it: unfinished handlers are cancelled and not awaited.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef emission_getset[] = {
    {"__name__", (getter)emission_get_name, NULL, NULL, ""},
    {"__qualname__", (getter)emission_get_name, NULL, NULL, "EventBus."},
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
    Py_VISIT(self->outcomes);
    Py_VISIT(self->loop);
    Py_VISIT(self->waiter);
    Py_VISIT(self->fatal);
    Py_VISIT(self->thrown);
    Py_VISIT(self->parent);
    if (self->watch != NULL) {
        Py_VISIT(self->watch->slowest);
    }
    return 0;
}

/* Breaks cycles.  Done, and with bus, name and payload still there, every method remains safe. */
static int
emission_clear(aeb_emission *self)
{
    self->status = EMISSION_DONE;
    Py_CLEAR(self->deliveries);
    Py_CLEAR(self->children);
    Py_CLEAR(self->outcomes);
    Py_CLEAR(self->loop);
    Py_CLEAR(self->waiter);
    Py_CLEAR(self->fatal);
    Py_CLEAR(self->thrown);
    Py_CLEAR(self->parent);
    aeb_watch *watch = self->watch;
    self->watch = NULL;
    aeb_watch_free(watch);
    return 0;
}

static void
emission_finalize(PyObject *obj)
{
    aeb_emission *self = (aeb_emission *)obj;
    PyObject *fatal = self->fatal;
    if (self->status != EMISSION_CREATED && fatal == NULL) {
        return;
    }
    PyObject *exc = aeb_take_exception();
    self->status = EMISSION_DONE;
    self->fatal = NULL;
    if (fatal != NULL) { /* it was left while it waited for other handlers, to raise this then */
        if (self->outcomes == NULL || !aeb_emission_is_guards(self, fatal)) {
            aeb_restore_exception_steal(Py_NewRef(fatal));
            PyErr_WriteUnraisable(obj);
        }
        Py_DECREF(fatal);
    }
    else if (PyErr_WarnFormat(PyExc_RuntimeWarning, 1,
                              "coroutine 'EventBus.%s' for event %R was never awaited",
                              method_name(self), self->name) < 0) {
        PyErr_WriteUnraisable(obj);
    }
    aeb_restore_exception_steal(exc);
}

/* Whether it went the way of most: awaited to its end, and never referred to weakly.  Then it has no
 * watch any more: it ended that, or told another of it. */
static bool
emission_is_bare(aeb_emission *self)
{
    return self->status == EMISSION_DONE && self->weakrefs == NULL && self->loop == NULL &&
           self->waiter == NULL && self->children == NULL && self->deliveries == NULL &&
           self->outcomes == NULL && self->fatal == NULL && self->thrown == NULL &&
           self->parent == NULL;
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
                   AEB_HAS_GIL && self->bus->state->n_free_emissions < AEB_MAX_FREE)) {
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

PyDoc_STRVAR(emission_doc,
             "The coroutine object that EventBus.emit_async() and publish_async() return.");

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
