/* Emitting: what `emit` and an Emitter share, and the Emitter, which is bound to one event name.
 *
 * An Emitter saves the look-up of the plan.  It does not own its plan, which would keep handlers
 * alive that have been removed: it borrows it from the bus, which counts plans_version up before it
 * lets go of any plan.  While that number is the one the emitter knows, the pointer is good.  Without a
 * GIL the plan could go right after that was found, so there the emitter looks it up like anybody else.
 */
#include "emitter.h"

#include "emission.h"
#include "handler_task.h"
#include "report.h"
#include "schedule.h"
#include "timing.h"

typedef struct {
    PyObject_HEAD
    aeb_bus *bus; /* strong */
    PyObject *name;
    aeb_plan *plan; /* borrowed, see above */
    uint64_t plans_version;
    vectorcallfunc vectorcall;
    PyObject *weakrefs;
} aeb_emitter;

/* Calls and schedules the handlers of a plan. */
AEB_ALWAYS_INLINE Py_ssize_t
deliver(aeb_bus *bus, aeb_plan *plan, aeb_occasion *occasion, bool nested)
{
    PyObject *late = NULL;
    Py_ssize_t count = aeb_dispatch_sync(bus, plan, occasion, nested, &late);
    if (AEB_UNLIKELY(late != NULL || plan->n_sync < plan->n_entries)) {
        if (count < 0) {
            aeb_close_late(bus->state, late, 0);
        }
        else {
            Py_ssize_t started = aeb_schedule(bus, plan, occasion, late, nested);
            count = started < 0 ? -1 : count + started;
        }
        Py_XDECREF(late);
    }
    return count;
}

/* The same for a plan with flags. */
AEB_NOINLINE Py_ssize_t
deliver_specially(aeb_bus *bus, aeb_plan *plan, aeb_occasion *occasion, bool nested)
{
    aeb_watch watch = {0};
    occasion->watch = NULL;
    if (bus->slow_after > 0.0) {
        watch.began = aeb_monotonic_ns();
        occasion->watch = &watch;
    }
    Py_ssize_t count = aeb_dispatch_prepare(bus, plan, occasion);
    if (count == 0) {
        count = deliver(bus, plan, occasion, nested);
    }
    if (watch.began != 0 && aeb_watch_end(bus, &watch, occasion->name, nested, count < 0) < 0) {
        count = -1;
    }
    return count;
}

Py_ssize_t
aeb_emit_plan(aeb_bus *bus, aeb_plan *plan, aeb_occasion *occasion)
{
    int nested = aeb_dispatch_enter(bus->state);
    if (nested < 0) {
        return -1;
    }
    Py_ssize_t count = AEB_UNLIKELY(plan->flags) ? deliver_specially(bus, plan, occasion, nested)
                                                 : deliver(bus, plan, occasion, nested);
    aeb_dispatch_leave(bus->state, nested);
    Py_XDECREF(occasion->event);
    return count;
}

PyObject *
aeb_emit_barred(aeb_bus *bus, PyObject *name)
{
    if (AEB_LOAD(bus->closed)) {
        return aeb_report_closed(bus, name) < 0 ? NULL : PyLong_FromLong(0);
    }
    PyErr_SetString(PyExc_RuntimeError, "the bus is async_only: await emit_async() instead");
    return NULL;
}

/* Borrows the plan that the bus has now. */
static int
emitter_refresh(aeb_emitter *self)
{
    aeb_plan *plan = aeb_registry_plan(self->bus, self->name);
    if (plan == NULL) {
        return -1;
    }
    self->plan = plan;
    self->plans_version = self->bus->plans_version;
    Py_DECREF(plan);
    return 0;
}

/* The plan that the bus has now, a new reference, or NULL. */
static inline aeb_plan *
emitter_plan(aeb_emitter *self)
{
    if (!AEB_HAS_GIL) {
        return aeb_registry_plan(self->bus, self->name);
    }
    if (AEB_UNLIKELY(self->plans_version != self->bus->plans_version) &&
        emitter_refresh(self) < 0) {
        return NULL;
    }
    return (aeb_plan *)Py_NewRef((PyObject *)self->plan);
}

/* emitter(payload=None, /) */
static PyObject *
emitter_vectorcall(PyObject *obj, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    aeb_emitter *self = (aeb_emitter *)obj;
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    if (AEB_UNLIKELY(kwnames != NULL && PyTuple_GET_SIZE(kwnames) > 0)) {
        PyErr_SetString(PyExc_TypeError, "an emitter takes no keyword arguments");
        return NULL;
    }
    if (AEB_UNLIKELY(nargs > 1)) {
        PyErr_Format(PyExc_TypeError, "an emitter takes at most one payload (%zd arguments given)",
                     nargs);
        return NULL;
    }
    if (AEB_UNLIKELY(AEB_LOAD(self->bus->emit_barred))) {
        return aeb_emit_barred(self->bus, self->name);
    }
    aeb_plan *plan = emitter_plan(self);
    if (AEB_UNLIKELY(plan == NULL)) {
        return NULL;
    }
    /* The interpreter counts a call of a built-in method, such as bus.emit, as a recursive one, and
     * an emission inside another uses as much of the C stack here. */
    bool nested = AEB_LOAD(self->bus->state->n_emitting) > 0;
    if (AEB_UNLIKELY(nested) && Py_EnterRecursiveCall(" in a nested emission")) {
        Py_DECREF(plan);
        return NULL;
    }
    PyObject *count = aeb_emit(self->bus, plan, nargs > 0 ? args[0] : Py_None, false);
    Py_DECREF(plan);
    if (AEB_UNLIKELY(nested)) {
        Py_LeaveRecursiveCall();
    }
    return count;
}

PyDoc_STRVAR(emitter_emit_async_doc,
             "emit_async($self, payload=None, /)\n--\n\n"
             "Return a coroutine object that delivers an event when it is awaited, and gives how\n"
             "many handlers were called: bus.emit_async(name, payload).");

static PyObject *
emitter_emit_async(aeb_emitter *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs > 1) {
        PyErr_Format(PyExc_TypeError,
                     "emit_async() takes at most one payload (%zd arguments given)", nargs);
        return NULL;
    }
    return aeb_emission_new(self->bus, self->name, nargs > 0 ? args[0] : Py_None);
}

PyObject *
aeb_emitter_new(aeb_bus *bus, PyObject *name)
{
    aeb_plan *plan = aeb_registry_plan(bus, name);
    if (plan == NULL) {
        return NULL;
    }
    PyObject *exact = Py_NewRef(plan->name);
    Py_DECREF(plan);
    aeb_emitter *self = aeb_type_alloc(bus->state->emitter_type, 0);
    if (self == NULL) {
        Py_DECREF(exact);
        return NULL;
    }
    self->bus = (aeb_bus *)Py_NewRef((PyObject *)bus);
    self->name = exact;
    self->vectorcall = emitter_vectorcall;
    if (AEB_HAS_GIL &&
        emitter_refresh(self) < 0) { /* only now: allocating it may have run a finaliser */
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

/* ---- the Python type ------------------------------------------------------------------------- */

static int
emitter_traverse(aeb_emitter *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->bus);
    return 0;
}

static void
emitter_dealloc(aeb_emitter *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    Py_CLEAR(self->bus);
    Py_CLEAR(self->name);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyObject *
emitter_repr(aeb_emitter *self)
{
    return PyUnicode_FromFormat("<Emitter %R of %R>", self->name, self->bus);
}

static PyMethodDef emitter_methods[] = {
    {"emit_async", AEB_METHOD(emitter_emit_async), METH_FASTCALL, emitter_emit_async_doc},
    {"__class_getitem__", AEB_METHOD(Py_GenericAlias), METH_O | METH_CLASS,
     PyDoc_STR("Support for annotations: Emitter[ToolCalled] takes such payloads.")},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef emitter_members[] = {
    {"name", T_OBJECT_EX, offsetof(aeb_emitter, name), READONLY,
     PyDoc_STR("The event name, a str.")},
    {"bus", T_OBJECT_EX, offsetof(aeb_emitter, bus), READONLY, PyDoc_STR("The bus it emits on.")},
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(aeb_emitter, vectorcall), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(aeb_emitter, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(emitter_doc,
             "Emits one event name on one bus: emitter(payload=None, /) does what\n"
             "bus.emit(name, payload) does, and returns the same.\n\n"
             "Made by EventBus.emitter(). It follows every later subscription and removal.");

/* No tp_clear: it is immutable, and every cycle through it also passes through its bus. */
static PyType_Slot emitter_slots[] = {
    {Py_tp_doc, (void *)emitter_doc},   {Py_tp_dealloc, emitter_dealloc},
    {Py_tp_traverse, emitter_traverse}, {Py_tp_call, PyVectorcall_Call},
    {Py_tp_repr, emitter_repr},         {Py_tp_methods, emitter_methods},
    {Py_tp_members, emitter_members},   {0, NULL},
};

static PyType_Spec emitter_spec = {
    .name = "agent_event_bus.Emitter",
    .basicsize = sizeof(aeb_emitter),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL |
             Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = emitter_slots,
};

int
aeb_emitter_init_type(PyObject *module, aeb_state *state)
{
    return aeb_state_add_type(module, &emitter_spec, &state->emitter_type, true);
}
