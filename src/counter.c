/* How many events of each name a bus has emitted.
 *
 * The counts outlive the plans, which come and go with every change of the handlers.  Their number
 * and the length of the names are bounded, so that names which are made up as the program runs do
 * not grow memory: what exceeds the bound is counted together.
 *
 * The dict has exact str keys, and releasing a counter runs no Python code.
 */
#include "counter.h"

/* Names that are counted by themselves. */
#define MAX_COUNTERS 1024

/* Longer names, in characters, are not. */
#define MAX_COUNTED_NAME 256

/* Lets go of counters that were made for a plan that nobody has emitted with. */
static int
make_room(aeb_bus *bus)
{
    PyObject *names = PyDict_Keys(bus->counters);
    if (names == NULL) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(names); i++) {
        PyObject *name = PyList_GET_ITEM(names, i);
        PyObject *counter = PyDict_GetItemWithError(bus->counters, name);
        if (counter != NULL && Py_REFCNT(counter) == 1 && ((aeb_counter *)counter)->n == 0 &&
            PyDict_DelItem(bus->counters, name) < 0) {
            Py_DECREF(names);
            return -1;
        }
    }
    Py_DECREF(names);
    bus->counters_full = PyDict_GET_SIZE(bus->counters) >= MAX_COUNTERS;
    return 0;
}

/* The counter of the names that have none of their own. */
static aeb_counter *
shared_counter(aeb_bus *bus)
{
    if (bus->shared_counter == NULL) {
        PyObject *fresh = aeb_type_alloc(bus->state->counter_type, 0);
        if (bus->shared_counter != NULL) {
            Py_CLEAR(fresh); /* the allocation ran a finaliser that emitted */
        }
        bus->shared_counter = fresh != NULL ? fresh : bus->shared_counter;
    }
    return (aeb_counter *)Py_XNewRef(bus->shared_counter);
}

aeb_counter *
aeb_counter_of(aeb_bus *bus, PyObject *name)
{
    PyObject *counter = PyDict_GetItemWithError(bus->counters, name);
    if (counter != NULL) {
        return (aeb_counter *)Py_NewRef(counter);
    }
    /* The name of a published object may be "*". */
    if (PyUnicode_GET_LENGTH(name) > MAX_COUNTED_NAME ||
        PyUnicode_Compare(name, bus->state->any_key) == 0) {
        return shared_counter(bus);
    }
    if (PyDict_GET_SIZE(bus->counters) >= MAX_COUNTERS) {
        if (!bus->counters_full && make_room(bus) < 0) {
            return NULL;
        }
        if (PyDict_GET_SIZE(bus->counters) >= MAX_COUNTERS) {
            return shared_counter(bus);
        }
    }
    PyObject *fresh = aeb_type_alloc(bus->state->counter_type, 0);
    if (fresh == NULL) {
        return NULL;
    }
    counter = Py_XNewRef(PyDict_SetDefault(bus->counters, name, fresh));
    Py_DECREF(fresh);
    return (aeb_counter *)counter;
}

static int
add_count(PyObject *counts, PyObject *name, PyObject *counter, uint64_t *total)
{
    uint64_t n = AEB_LOAD(((aeb_counter *)counter)->n);
    if (n == 0) {
        return 0;
    }
    *total += n;
    PyObject *number = PyLong_FromUnsignedLongLong(n);
    int status = number == NULL ? -1 : PyDict_SetItem(counts, name, number);
    Py_XDECREF(number);
    return status;
}

static PyObject *
counts_locked(aeb_bus *bus, uint64_t *total)
{
    PyObject *counts = PyDict_New();
    PyObject *name, *counter;
    Py_ssize_t position = 0;
    int status = counts == NULL ? -1 : 0;
    /* Nothing in here runs Python code, so nothing changes the dict meanwhile. */
    while (status == 0 && PyDict_Next(bus->counters, &position, &name, &counter)) {
        status = add_count(counts, name, counter, total);
    }
    if (status == 0 && bus->shared_counter != NULL) {
        status = add_count(counts, bus->state->any_key, bus->shared_counter, total);
    }
    if (status < 0) {
        Py_CLEAR(counts);
    }
    return counts;
}

PyObject *
aeb_registry_counts(aeb_bus *bus, uint64_t *total)
{
    PyObject *counts;
    *total = 0;
    AEB_LOCK(bus);
    counts = counts_locked(bus, total);
    AEB_UNLOCK();
    return counts;
}

/* ---- life cycle ---------------------------------------------------------------------------- */

int
aeb_counters_init(aeb_bus *bus)
{
    bus->counters = PyDict_New();
    return bus->counters == NULL ? -1 : 0;
}

int
aeb_counters_traverse(aeb_bus *bus, visitproc visit, void *arg)
{
    Py_VISIT(bus->counters);
    Py_VISIT(bus->shared_counter);
    return 0;
}

void
aeb_counters_free(aeb_bus *bus)
{
    Py_CLEAR(bus->counters);
    Py_CLEAR(bus->shared_counter);
}

static int
counter_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static void
counter_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot counter_slots[] = {
    {Py_tp_dealloc, counter_dealloc},
    {Py_tp_traverse, counter_traverse},
    {0, NULL},
};

static PyType_Spec counter_spec = {
    .name = "agent_event_bus._core.Counter",
    .basicsize = sizeof(aeb_counter),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = counter_slots,
};

int
aeb_counter_init_type(PyObject *module, aeb_state *state)
{
    return aeb_state_add_type(module, &counter_spec, &state->counter_type, false);
}
