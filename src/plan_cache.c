/* The plans that a bus keeps: found by event name or class, made at the first emission, dropped when
 * the subscriptions change.
 *
 * `plans` has those of event names.  Names that somebody subscribed to exactly stay until a change
 * concerns them.  The number of other names, and the entries of their plans in all, are bounded: past
 * that everything is dropped and begun anew, so a million distinct names do not grow memory.
 *
 * `class_plans` has those of published objects, by the address of their class.  Such a plan keeps
 * no class alive; it knows the classes of the method resolution order by weak references, so that a
 * class which has got other bases or another name, or has the address of one that died, is told from
 * what the plan was made for.
 *
 * What registry.c says about locking holds here too.
 */
#include "plan_cache.h"

#include "keys.h"
#include "patterns.h"
#include "schema.h"

/* Names without an exact subscription, or classes, that are kept. */
#define MAX_ANY_PLANS 1024

/* What all their plans may cost, in entries.  A long name costs as much as the entries that would
 * take its memory.  The last plan may exceed it. */
#define MAX_ANY_COST 65536

/* ---- making ---------------------------------------------------------------------------------- */

typedef struct {
    aeb_bus *bus;
    aeb_sources *sources;
} pattern_context;

static int
add_pattern(void *context, PyObject *key)
{
    pattern_context *found = context;
    PyObject *list = PyDict_GetItemWithError(found->bus->lists, key);
    return aeb_sources_add(found->sources, list, AEB_FORM_NAME_PAYLOAD);
}

/* Finds what an event reaches.  The forms in which a subscription prefers to be called come first.
 * `mro` is NULL where the event is no published object. */
static int
collect_sources(aeb_bus *bus, PyObject *name, PyObject *mro, aeb_sources *sources)
{
    for (Py_ssize_t i = 0; mro != NULL && i < PyTuple_GET_SIZE(mro); i++) {
        PyObject *listed = aeb_key_listed(PyTuple_GET_ITEM(mro, i));
        if (listed == NULL) {
            return -1;
        }
        PyObject *list = PyDict_GetItemWithError(bus->lists, listed);
        Py_DECREF(listed);
        if (aeb_sources_add(sources, list, AEB_FORM_PAYLOAD) < 0) {
            return -1;
        }
    }
    /* The name of a class may look like a pattern, and is not the key then. */
    if (mro == NULL || !aeb_key_has_star(name)) {
        PyObject *list = PyDict_GetItemWithError(bus->lists, name);
        if (aeb_sources_add(sources, list, AEB_FORM_PAYLOAD) < 0) {
            return -1;
        }
    }
    pattern_context context = {bus, sources};
    if (aeb_patterns_match(bus->patterns, name, add_pattern, &context) < 0) {
        return -1;
    }
    PyObject *any = PyDict_GetItemWithError(bus->lists, bus->state->any_key);
    return aeb_sources_add(sources, any, AEB_FORM_NAME_PAYLOAD);
}

/* A plan that is up to date on return. */
static aeb_plan *
make_plan(aeb_bus *bus, PyObject *name, PyObject *mro)
{
    aeb_counter *counter = aeb_counter_of(bus, name);
    aeb_plan *plan = NULL;
    int status = counter == NULL ? -1 : 0;
    while (status == 0) {
        aeb_sources sources;
        uint64_t version = bus->plans_version;
        aeb_sources_init(&sources);
        status = collect_sources(bus, name, mro, &sources);
        if (status == 0) {
            status = aeb_plan_new(bus, name, counter, &sources, version, &plan);
        }
        aeb_sources_free(&sources);
    }
    Py_XDECREF(counter);
    return plan;
}

static Py_ssize_t
plan_cost(const aeb_plan *plan)
{
    Py_ssize_t name_size = PyUnicode_GET_LENGTH(plan->name) * PyUnicode_KIND(plan->name);
    return plan->n_entries + name_size / (Py_ssize_t)sizeof(aeb_plan_entry);
}

/* ---- names ----------------------------------------------------------------------------------- */

/* Remembers the plan of a name unless a finaliser has had the same idea: the one in `plans` stays,
 * because emitters may have borrowed it.  A new reference to that, or NULL. */
static aeb_plan *
remember_plan(aeb_bus *bus, PyObject *name, aeb_plan *plan_steal)
{
    PyObject *kept = Py_XNewRef(PyDict_SetDefault(bus->plans, name, (PyObject *)plan_steal));
    if (kept != NULL && PyDict_GetItemWithError(bus->lists, name) == NULL) {
        bus->n_any_plans++;
        bus->any_cost += plan_cost(plan_steal);
    }
    Py_DECREF(plan_steal);
    return (aeb_plan *)kept;
}

/* Lets go of the plans of all names. */
static void
drop_name_plans(aeb_bus *bus)
{
    bus->plans_version++;
    bus->n_any_plans = bus->any_cost = 0;
    bus->counters_full = false; /* a plan may have been all that used one */
    PyDict_Clear(bus->plans);
}

/* The plan of a str subclass that hashes and compares as str does, such as a member of a str enum:
 * a look-up of it runs no Python code either.  NULL, without an exception, when it is none. */
static aeb_plan *
plan_of_subclass(aeb_bus *bus, PyObject *name)
{
    if (!PyUnicode_Check(name) || Py_TYPE(name)->tp_hash != PyUnicode_Type.tp_hash ||
        Py_TYPE(name)->tp_richcompare != PyUnicode_Type.tp_richcompare) {
        return NULL;
    }
#if PY_VERSION_HEX < 0x030B0000
    /* There a dict that is once asked for another type than str is slower ever after. */
    PyObject *exact = PyUnicode_FromObject(name);
    PyObject *plan = exact == NULL ? NULL : PyDict_GetItemWithError(bus->plans, exact);
    Py_XDECREF(exact);
#else
    PyObject *plan = PyDict_GetItemWithError(bus->plans, name);
#endif
    if (plan == NULL) {
        PyErr_Clear();
    }
    return (aeb_plan *)plan;
}

static aeb_plan *
make_name_plan_locked(aeb_bus *bus, PyObject *name)
{
    aeb_plan *plan = (aeb_plan *)Py_XNewRef((PyObject *)plan_of_subclass(bus, name));
    if (plan != NULL) {
        return plan;
    }
    PyObject *exact = aeb_event_name_normalize(name);
    if (exact == NULL) {
        return NULL;
    }
    plan = (aeb_plan *)Py_XNewRef(PyDict_GetItemWithError(bus->plans, exact));
    if (plan == NULL) {
        if (bus->n_any_plans >= MAX_ANY_PLANS || bus->any_cost >= MAX_ANY_COST) {
            drop_name_plans(bus);
        }
        plan = aeb_schema_admit(bus, exact) < 0 ? NULL : make_plan(bus, exact, NULL);
        if (plan != NULL) {
            aeb_schema_apply(bus, plan);
            plan = remember_plan(bus, exact, plan);
        }
    }
    Py_DECREF(exact);
    return plan;
}

aeb_plan *
aeb_registry_make_plan(aeb_bus *bus, PyObject *name)
{
    aeb_plan *plan;
    AEB_LOCK(bus);
    plan = make_name_plan_locked(bus, name);
    AEB_UNLOCK();
    return plan;
}

/* ---- classes --------------------------------------------------------------------------------- */

/* What plan->made_for has before the weak references. */
#define N_NAMES 1

static PyObject *
stored_name_or_none(PyTypeObject *type)
{
    PyObject *stored = aeb_class_stored_name(type);
    return stored == NULL ? Py_None : stored;
}

/* Whether a plan was made for this class as it is now. */
static bool
plan_fits(const aeb_plan *plan, PyTypeObject *type)
{
    PyObject *mro = type->tp_mro, *made_for = plan->made_for;
    Py_ssize_t n = mro == NULL ? 0 : PyTuple_GET_SIZE(mro);
    if (PyTuple_GET_SIZE(made_for) != N_NAMES + n ||
        PyTuple_GET_ITEM(made_for, 0) != stored_name_or_none(type)) {
        return false;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *ref = PyTuple_GET_ITEM(made_for, N_NAMES + i);
        if (!aeb_weakref_refers_to(ref, PyTuple_GET_ITEM(mro, i))) {
            return false;
        }
    }
    return true;
}

/* What plan_fits() compares: the very object that the class has as its qualified name, then weak
 * references to the classes of its method resolution order. */
static PyObject *
describe_class(PyTypeObject *type, PyObject *mro)
{
    PyObject *parts = PyList_New(0), *result = NULL;
    if (parts == NULL || PyList_Append(parts, stored_name_or_none(type)) < 0) {
        goto done;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(mro); i++) {
        PyObject *ref = PyWeakref_NewRef(PyTuple_GET_ITEM(mro, i), NULL);
        int status = ref == NULL ? -1 : PyList_Append(parts, ref);
        Py_XDECREF(ref);
        if (status < 0) {
            goto done;
        }
    }
    result = PyList_AsTuple(parts);

done:
    Py_XDECREF(parts);
    return result;
}

/* Lets go of the plans of all classes. */
static void
drop_class_plans(aeb_bus *bus)
{
    bus->plans_version++;
    bus->class_cost = 0;
    PyDict_Clear(bus->class_names);
    PyDict_Clear(bus->class_plans);
}

/* Makes the plan of a class and remembers it.  A new reference, or NULL. */
static aeb_plan *
make_class_plan_locked(aeb_bus *bus, PyTypeObject *type, PyObject *listed)
{
    Py_INCREF(type); /* a finaliser can give the object that is published another class */
    if (PyDict_GET_SIZE(bus->class_plans) >= MAX_ANY_PLANS || bus->class_cost >= MAX_ANY_COST) {
        drop_class_plans(bus);
    }
    /* A class has no order while the one that it had is being replaced. */
    PyObject *mro = type->tp_mro == NULL ? PyTuple_New(0) : Py_NewRef(type->tp_mro);
    PyObject *made_for = mro == NULL ? NULL : describe_class(type, mro);
    /* After that, so that a name which a finaliser has changed meanwhile is told from it. */
    PyObject *name = made_for == NULL ? NULL : aeb_class_name(type);
    aeb_plan *plan = name == NULL ? NULL : make_plan(bus, name, mro);
    if (plan != NULL) {
        plan->made_for = Py_NewRef(made_for);
        bus->class_cost += plan_cost(plan);
        if (PyDict_SetItem(bus->class_names, name, Py_None) < 0 ||
            PyDict_SetItem(bus->class_plans, listed, (PyObject *)plan) < 0) {
            Py_CLEAR(plan);
        }
    }
    Py_XDECREF(made_for);
    Py_XDECREF(name);
    Py_XDECREF(mro);
    Py_DECREF(type);
    return plan;
}

aeb_plan *
aeb_registry_class_plan(aeb_bus *bus, PyTypeObject *type)
{
    PyObject *listed = PyLong_FromVoidPtr(type);
    if (listed == NULL) {
        return NULL;
    }
    if (!AEB_HAS_GIL) { /* while this waits for the lock, the object may get another class */
        Py_INCREF(type);
    }
    aeb_plan *plan;
    AEB_LOCK(bus);
    plan = (aeb_plan *)PyDict_GetItemWithError(bus->class_plans, listed);
    if (AEB_LIKELY(plan != NULL && plan_fits(plan, type))) {
        Py_INCREF(plan);
    }
    else {
        plan = make_class_plan_locked(bus, type, listed);
    }
    AEB_UNLOCK();
    if (!AEB_HAS_GIL) {
        Py_DECREF(type);
    }
    Py_DECREF(listed);
    return plan;
}

/* ---- dropping -------------------------------------------------------------------------------- */

void
aeb_plans_drop_all_locked(aeb_bus *bus)
{
    drop_name_plans(bus);
    drop_class_plans(bus);
}

void
aeb_plans_drop_locked(aeb_bus *bus, PyObject *key)
{
    if (!PyUnicode_CheckExact(key)) {
        drop_class_plans(bus);
        return;
    }
    if (aeb_key_has_star(key)) {
        aeb_plans_drop_all_locked(bus);
        return;
    }
    bus->plans_version++;
    if (PyDict_GetItemWithError(bus->class_names, key) != NULL) {
        drop_class_plans(bus);
    }
    if (PyDict_GetItemWithError(bus->plans, key) != NULL && PyDict_DelItem(bus->plans, key) < 0) {
        PyErr_Clear(); /* it was there: only the dict's own allocation can fail */
        drop_name_plans(bus);
    }
}

/* ---- life cycle ------------------------------------------------------------------------------ */

int
aeb_plans_init(aeb_bus *bus)
{
    bus->plans = PyDict_New();
    bus->class_plans = PyDict_New();
    bus->class_names = PyDict_New();
    if (bus->plans == NULL || bus->class_plans == NULL || bus->class_names == NULL) {
        aeb_plans_free(bus); /* all or none, for what clears a bus that could not be made */
        return -1;
    }
    return aeb_counters_init(bus);
}

int
aeb_plans_traverse(aeb_bus *bus, visitproc visit, void *arg)
{
    Py_VISIT(bus->plans);
    Py_VISIT(bus->class_plans);
    return aeb_counters_traverse(bus, visit, arg);
}

void
aeb_plans_free(aeb_bus *bus)
{
    Py_CLEAR(bus->plans);
    Py_CLEAR(bus->class_plans);
    Py_CLEAR(bus->class_names);
    aeb_counters_free(bus);
}
