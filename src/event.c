/* Event: one immutable record of something that happened on a bus.
 *
 * Handlers subscribed with envelope=True receive it.  One emission makes at most one Event, shared
 * by all of them, so it must not be possible to change it.
 */
#include "event.h"

static PyObject *
event_alloc(PyTypeObject *type, PyObject *name, PyObject *payload, uint64_t seq, double timestamp)
{
    aeb_event *self = aeb_type_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->name = Py_NewRef(name);
    self->payload = Py_NewRef(payload);
    self->seq = seq;
    self->timestamp = timestamp;
    return (PyObject *)self;
}

PyObject *
aeb_event_new(aeb_state *state, PyObject *name, PyObject *payload, uint64_t seq)
{
    return event_alloc(state->event_type, name, payload, seq, aeb_time());
}

bool
aeb_event_renew(aeb_event *event, PyObject *name, PyObject *payload, uint64_t seq,
                PyObject **old_name, PyObject **old_payload)
{
    if (!AEB_HAS_GIL || Py_REFCNT(event) != 1 || event->weakrefs != NULL) {
        return false;
    }
    *old_name = event->name;
    *old_payload = event->payload;
    event->name = Py_NewRef(name);
    event->payload = Py_NewRef(payload);
    event->seq = seq;
    event->timestamp = aeb_time();
    return true;
}

/* The number of an event as given by a user.  0 or -1. */
static int
parse_seq(PyObject *value, uint64_t *seq)
{
    *seq = 0;
    if (value == NULL) {
        return 0;
    }
    if (!PyLong_Check(value) || PyBool_Check(value)) {
        PyErr_Format(PyExc_TypeError, "seq must be an int, not %.200s", Py_TYPE(value)->tp_name);
        return -1;
    }
    *seq = PyLong_AsUnsignedLongLong(value);
    if (*seq == (uint64_t)-1 && PyErr_Occurred()) {
        PyErr_SetString(PyExc_OverflowError, "seq must be at least 0 and fit in 64 bits");
        return -1;
    }
    return 0;
}

/* The time of an event as given by a user, None for now.  0 or -1. */
static int
parse_timestamp(PyObject *value, double *timestamp)
{
    *timestamp = value == Py_None ? aeb_time() : PyFloat_AsDouble(value);
    if (*timestamp == -1.0 && PyErr_Occurred()) {
        /* Neither of these says what it is about. */
        if (PyErr_ExceptionMatches(PyExc_TypeError)) {
            PyErr_Format(PyExc_TypeError, "timestamp must be a number of seconds, not %.200s",
                         Py_TYPE(value)->tp_name);
        }
        else if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
            PyErr_SetString(PyExc_OverflowError, "timestamp is too large");
        }
        return -1;
    }
    return 0;
}

static PyObject *
event_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"name", "payload", "seq", "timestamp", NULL};
    PyObject *name, *payload = Py_None, *seq_obj = NULL, *timestamp_obj = Py_None;
    uint64_t seq;
    double timestamp;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|OOO:Event", keywords, &name, &payload,
                                     &seq_obj, &timestamp_obj)) {
        return NULL;
    }
    if (!PyUnicode_Check(name)) {
        PyErr_Format(PyExc_TypeError, "name must be a str, not %.200s", Py_TYPE(name)->tp_name);
        return NULL;
    }
    if (parse_seq(seq_obj, &seq) < 0 || parse_timestamp(timestamp_obj, &timestamp) < 0) {
        return NULL;
    }
    PyObject *exact_name = PyUnicode_FromObject(name); /* a subclass could be part of a cycle */
    if (exact_name == NULL) {
        return NULL;
    }
    PyObject *self = event_alloc(type, exact_name, payload, seq, timestamp);
    Py_DECREF(exact_name);
    return self;
}

static int
event_traverse(aeb_event *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->payload);
    return 0;
}

static int
event_clear(aeb_event *self)
{
    /* None instead of NULL: a finaliser later in the same collection may still read it. */
    PyObject *payload = self->payload;
    self->payload = Py_NewRef(Py_None);
    Py_XDECREF(payload);
    return 0;
}

static void
event_dealloc(aeb_event *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    AEB_TRASHCAN_BEGIN(self, event_dealloc)
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    Py_CLEAR(self->name);
    Py_CLEAR(self->payload);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
    AEB_TRASHCAN_END
}

static PyObject *
event_repr(aeb_event *self)
{
    int entered = Py_ReprEnter((PyObject *)self);
    if (entered != 0) {
        return entered > 0 ? PyUnicode_FromString("Event(...)") : NULL;
    }
    PyObject *result = NULL;
    PyObject *timestamp = PyFloat_FromDouble(self->timestamp);
    if (timestamp != NULL) {
        result =
            PyUnicode_FromFormat("Event(name=%R, payload=%R, seq=%llu, timestamp=%R)", self->name,
                                 self->payload, (unsigned long long)self->seq, timestamp);
        Py_DECREF(timestamp);
    }
    Py_ReprLeave((PyObject *)self);
    return result;
}

PyDoc_STRVAR(event_to_dict_doc,
             "to_dict($self, /)\n--\n\n"
             "Return the event as a new dict with the keys name, payload, seq and timestamp.\n\n"
             "The payload is the very object that was emitted, not a copy.");

static PyObject *
event_to_dict(aeb_event *self, PyObject *Py_UNUSED(ignored))
{
    return Py_BuildValue("{sOsOsKsd}", "name", self->name, "payload", self->payload, "seq",
                         (unsigned long long)self->seq, "timestamp", self->timestamp);
}

static PyObject *
event_reduce(aeb_event *self, PyObject *Py_UNUSED(ignored))
{
    return Py_BuildValue("O(OOKd)", (PyObject *)Py_TYPE(self), self->name, self->payload,
                         (unsigned long long)self->seq, self->timestamp);
}

static PyMethodDef event_methods[] = {
    {"to_dict", AEB_METHOD(event_to_dict), METH_NOARGS, event_to_dict_doc},
    {"__reduce__", AEB_METHOD(event_reduce), METH_NOARGS,
     PyDoc_STR("Support for pickle and copy.")},
    {"__class_getitem__", AEB_METHOD(Py_GenericAlias), METH_O | METH_CLASS,
     PyDoc_STR("Support for annotations: Event[ToolCalled] is an event with such a payload.")},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef event_members[] = {
    {"name", T_OBJECT_EX, offsetof(aeb_event, name), READONLY, PyDoc_STR("The event name.")},
    {"payload", T_OBJECT_EX, offsetof(aeb_event, payload), READONLY,
     PyDoc_STR("The object that was emitted.")},
    {"seq", T_ULONGLONG, offsetof(aeb_event, seq), READONLY,
     PyDoc_STR("The event's number on its bus, from 1.")},
    {"timestamp", T_DOUBLE, offsetof(aeb_event, timestamp), READONLY,
     PyDoc_STR("When it was emitted, in seconds since the epoch, as time.time() has it.")},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(aeb_event, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(event_doc,
             "Event(name, payload=None, seq=0, timestamp=None)\n--\n\n"
             "An immutable record of one event.\n\n"
             "name is the event name, payload any object, seq the event's number on its bus, and\n"
             "timestamp seconds since the epoch (now when None). A bus makes these itself for\n"
             "handlers subscribed with envelope=True.");

static PyType_Slot event_slots[] = {
    {Py_tp_doc, (void *)event_doc},
    {Py_tp_new, event_new},
    {Py_tp_dealloc, event_dealloc},
    {Py_tp_traverse, event_traverse},
    {Py_tp_clear, event_clear},
    {Py_tp_repr, event_repr},
    {Py_tp_methods, event_methods},
    {Py_tp_members, event_members},
    {0, NULL},
};

static PyType_Spec event_spec = {
    .name = "agent_event_bus.Event",
    .basicsize = sizeof(aeb_event),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = event_slots,
};

int
aeb_event_init_type(PyObject *module, aeb_state *state)
{
    return aeb_state_add_type(module, &event_spec, &state->event_type, true);
}
