/* Outcome: what became of one delivery that `collect` or `collect_async` made.
 *
 * The outcomes of async handlers are put in their places when the handlers are started, and filled in
 * as they end.  The list is shown to nobody before that.
 */
#include "outcome.h"

struct aeb_outcome {
    PyObject_HEAD
    aeb_subscription *sub; /* strong */
    PyObject *value;
    PyObject *exception;
    double began; /* in aeb_monotonic() seconds; 0: never */
    double duration;
    aeb_ending ending;
    bool settled;
    PyObject *weakrefs;
};

aeb_outcome *
aeb_outcome_reserve(aeb_state *state, PyObject *outcomes, aeb_subscription *sub)
{
    aeb_outcome *self = aeb_type_alloc(state->outcome_type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->sub = (aeb_subscription *)Py_NewRef((PyObject *)sub);
    self->value = Py_NewRef(Py_None);
    self->exception = Py_NewRef(Py_None);
    if (PyList_Append(outcomes, (PyObject *)self) < 0) {
        Py_CLEAR(self);
    }
    return self;
}

void
aeb_outcome_begin(aeb_outcome *self, uint64_t took)
{
    self->began = aeb_monotonic() - (double)took * 1e-9;
}

void
aeb_outcome_settle(aeb_outcome *self, aeb_ending ending, PyObject *result)
{
    if (self->settled) {
        return;
    }
    self->duration = self->began != 0.0 ? aeb_monotonic() - self->began : 0.0;
    self->ending = ending;
    self->settled = true;
    if (ending == AEB_ENDED_WELL) {
        Py_SETREF(self->value, Py_NewRef(result));
    }
    else {
        Py_SETREF(self->exception, Py_NewRef(result));
    }
}

int
aeb_outcome_add(aeb_state *state, PyObject *outcomes, aeb_subscription *sub, aeb_ending ending,
                PyObject *result, double began)
{
    aeb_outcome *self = aeb_outcome_reserve(state, outcomes, sub);
    if (self == NULL) {
        return -1;
    }
    self->began = began;
    aeb_outcome_settle(self, ending, result);
    Py_DECREF(self);
    return 0;
}

int
aeb_outcomes_finish(PyObject *outcomes)
{
    for (Py_ssize_t i = PyList_GET_SIZE(outcomes) - 1; i >= 0; i--) {
        aeb_outcome *self = (aeb_outcome *)PyList_GET_ITEM(outcomes, i);
        if (!self->settled && PyList_SetSlice(outcomes, i, i + 1, NULL) < 0) {
            return -1;
        }
    }
    return 0;
}

/* ---- the Python type ------------------------------------------------------------------------- */

static int
outcome_traverse(aeb_outcome *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->sub);
    Py_VISIT(self->value);
    Py_VISIT(self->exception);
    return 0;
}

/* None instead of NULL: a finaliser later in the same collection may still read it. */
static int
outcome_clear(aeb_outcome *self)
{
    PyObject *value = self->value, *exception = self->exception;
    self->value = Py_NewRef(Py_None);
    self->exception = Py_NewRef(Py_None);
    Py_XDECREF(value);
    Py_XDECREF(exception);
    return 0;
}

static void
outcome_dealloc(aeb_outcome *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    AEB_TRASHCAN_BEGIN(self, outcome_dealloc)
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    Py_CLEAR(self->value);
    Py_CLEAR(self->exception);
    Py_CLEAR(self->sub);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
    AEB_TRASHCAN_END
}

static const char *
status_text(const aeb_outcome *self)
{
    switch (self->ending) {
    case AEB_ENDED_WELL:
        return "ok";
    case AEB_ENDED_CANCELLED:
        return "cancelled";
    case AEB_TIMED_OUT:
        return "timeout";
    default:
        return "error";
    }
}

static PyObject *
outcome_repr(aeb_outcome *self)
{
    int entered = Py_ReprEnter((PyObject *)self);
    if (entered != 0) {
        return entered > 0 ? PyUnicode_FromString("<Outcome ...>") : NULL;
    }
    PyObject *result = NULL, *name = aeb_subscription_handler_name(self->sub);
    if (name != NULL && self->ending == AEB_ENDED_WELL) {
        result = PyUnicode_FromFormat("<Outcome of %U: ok, %R>", name, self->value);
    }
    else if (name != NULL) {
        result = PyUnicode_FromFormat("<Outcome of %U: %s, %R>", name, status_text(self),
                                      self->exception);
    }
    Py_XDECREF(name);
    Py_ReprLeave((PyObject *)self);
    return result;
}

static PyObject *
outcome_get_status(aeb_outcome *self, void *Py_UNUSED(closure))
{
    return PyUnicode_InternFromString(status_text(self));
}

static PyGetSetDef outcome_getset[] = {
    {"status", (getter)outcome_get_status, NULL,
     PyDoc_STR("How it ended: \"ok\", \"error\", \"cancelled\" or \"timeout\"."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef outcome_members[] = {
    {"subscription", T_OBJECT_EX, offsetof(aeb_outcome, sub), READONLY,
     PyDoc_STR("The Subscription whose handler it was.")},
    {"value", T_OBJECT_EX, offsetof(aeb_outcome, value), READONLY,
     PyDoc_STR("What the handler returned, or None.")},
    {"exception", T_OBJECT_EX, offsetof(aeb_outcome, exception), READONLY,
     PyDoc_STR("What the handler raised, or None.")},
    {"duration", T_DOUBLE, offsetof(aeb_outcome, duration), READONLY,
     PyDoc_STR("Seconds from the handler's start to its end.")},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(aeb_outcome, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(outcome_doc,
             "What became of one handler that EventBus.collect() or collect_async() called.");

static PyType_Slot outcome_slots[] = {
    {Py_tp_doc, (void *)outcome_doc},   {Py_tp_dealloc, outcome_dealloc},
    {Py_tp_traverse, outcome_traverse}, {Py_tp_clear, outcome_clear},
    {Py_tp_repr, outcome_repr},         {Py_tp_getset, outcome_getset},
    {Py_tp_members, outcome_members},   {0, NULL},
};

static PyType_Spec outcome_spec = {
    .name = "agent_event_bus.Outcome",
    .basicsize = sizeof(aeb_outcome),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = outcome_slots,
};

int
aeb_outcome_init_type(PyObject *module, aeb_state *state)
{
    return aeb_state_add_type(module, &outcome_spec, &state->outcome_type, true);
}
