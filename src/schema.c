/* Declared events: the schema of each, and the names that a strict bus admits.
 *
 * `schemas` maps the name of a declared event to (schema, checker).  A plan takes the checker of its
 * name when it is made, so an emission looks nothing up here, and names without a checker cost an
 * emission nothing.  A strict bus makes no plan for a name that is not in the dict.
 *
 * Schemas are strangers, as handlers are: they are compared by identity.
 */
#include "schema.h"

#include "keys.h"
#include "plan_cache.h"
#include "subscription.h"

/* What `schemas` has under a name: borrowed, or NULL. */
static PyObject *
declaration_of(aeb_bus *bus, PyObject *name)
{
    return bus->schemas == NULL ? NULL : PyDict_GetItemWithError(bus->schemas, name);
}

/* Adds a declaration, a pair, unless the name has one already. */
static int
declare_locked(aeb_bus *bus, PyObject *name, PyObject *pair)
{
    if (bus->schemas == NULL) {
        PyObject *fresh = PyDict_New();
        if (fresh == NULL) {
            return -1;
        }
        if (bus->schemas != NULL) { /* a finaliser declared something while it was made */
            Py_DECREF(fresh);
        }
        else {
            bus->schemas = fresh;
        }
    }
    PyObject *known = PyDict_SetDefault(bus->schemas, name, pair);
    if (known == NULL) {
        return -1;
    }
    if (known != pair && !aeb_same_handler(PyTuple_GET_ITEM(known, 0), PyTuple_GET_ITEM(pair, 0))) {
        PyErr_Format(PyExc_ValueError, "event %R is defined already, with another schema", name);
        return -1;
    }
    return 0;
}

int
aeb_schema_define(aeb_bus *bus, PyObject *name, PyObject *schema, PyObject *checker)
{
    PyObject *exact = aeb_event_name_normalize(name);
    if (exact == NULL) {
        return -1;
    }
    int status = -1;
    PyObject *pair = PyTuple_Pack(2, schema, checker);
    if (pair != NULL) {
        AEB_LOCK(bus);
        status = declare_locked(bus, exact, pair);
        if (status == 0) {
            aeb_plans_drop_locked(bus, exact);
        }
        AEB_UNLOCK();
        Py_DECREF(pair);
    }
    Py_DECREF(exact);
    return status;
}

void
aeb_schema_apply(aeb_bus *bus, aeb_plan *plan)
{
    PyObject *pair = declaration_of(bus, plan->name);
    PyObject *checker = pair == NULL ? Py_None : PyTuple_GET_ITEM(pair, 1);
    if (checker != Py_None) {
        plan->check = Py_NewRef(checker);
        plan->flags |= AEB_PLAN_CHECKED;
    }
}

int
aeb_schema_check(PyObject *checker, PyObject *name, PyObject *payload)
{
    PyObject *stack[3] = {NULL, name, payload};
    PyObject *result =
        PyObject_Vectorcall(checker, stack + 1, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* ---- strict ---------------------------------------------------------------------------------- */

/* agent_event_bus.errors.unknown_event, imported when it is first needed; borrowed. */
static PyObject *
error_maker(aeb_state *state)
{
    if (AEB_LOAD(state->unknown_event) == NULL) {
        PyObject *module = PyImport_ImportModule("agent_event_bus.errors");
        if (module != NULL) {
            PyObject *found = PyObject_GetAttrString(module, "unknown_event");
            if (found != NULL) {
                aeb_fill_once(&state->unknown_event, found);
            }
            Py_DECREF(module);
        }
    }
    return AEB_LOAD(state->unknown_event);
}

static int
admit_locked(aeb_bus *bus, PyObject *name)
{
    if (declaration_of(bus, name) != NULL) {
        return 0;
    }
    PyObject *make = Py_XNewRef(error_maker(bus->state));
    PyObject *declared = NULL, *error = NULL;
    if (make != NULL) {
        declared = bus->schemas == NULL ? PyList_New(0) : PyDict_Keys(bus->schemas);
    }
    if (declared != NULL) {
        error = PyObject_CallFunctionObjArgs(make, name, declared, NULL);
    }
    if (error != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    }
    Py_XDECREF(error);
    Py_XDECREF(declared);
    Py_XDECREF(make);
    return -1;
}

int
aeb_schema_admit(aeb_bus *bus, PyObject *name)
{
    int status = 0;
    if (AEB_UNLIKELY(bus->strict)) {
        AEB_LOCK(bus);
        status = admit_locked(bus, name);
        AEB_UNLOCK();
    }
    return status;
}

int
aeb_schema_admit_keys(aeb_bus *bus, PyObject *keys)
{
    for (Py_ssize_t i = 0; bus->strict && i < PyTuple_GET_SIZE(keys); i++) {
        PyObject *key = PyTuple_GET_ITEM(keys, i);
        bool is_name = PyUnicode_CheckExact(key) && !aeb_key_has_star(key);
        if (is_name && aeb_schema_admit(bus, key) < 0) {
            return -1;
        }
    }
    return 0;
}

/* ---- life cycle ------------------------------------------------------------------------------ */

int
aeb_schema_traverse(aeb_bus *bus, visitproc visit, void *arg)
{
    Py_VISIT(bus->schemas);
    return 0;
}

void
aeb_schema_clear(aeb_bus *bus)
{
    bus->strict = false; /* a finaliser that emits late is told of no error that is not there */
    Py_CLEAR(bus->schemas);
}
