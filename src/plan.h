/* Plans: which handlers an event name reaches, found out once and kept. */
#ifndef AEB_PLAN_H
#define AEB_PLAN_H

#include "bus_object.h"
#include "subscription.h"

/* What a handler is called with. */
typedef enum {
    AEB_FORM_PAYLOAD,      /* (payload): an exact key */
    AEB_FORM_NAME_PAYLOAD, /* (event_name, payload): a wildcard key */
    AEB_FORM_EVENT,        /* (Event): envelope=True */
} aeb_form;

typedef struct {
    aeb_subscription *sub; /* strong */
    aeb_form form;
} aeb_plan_entry;

/* What is out of the ordinary about a plan.  Most have nothing, and for those an emission looks at
 * the flags once.  A bus that changes what its plans must have drops the ones it has made. */
typedef enum {
    AEB_PLAN_ENVELOPE = 1 << 0, /* some handler is called with an Event */
    AEB_PLAN_CAREFUL = 1 << 1,  /* the handlers are called by careful.c */
    AEB_PLAN_CHECKED = 1 << 4,  /* the payload is checked first */
} aeb_plan_flag;

/* The handlers of one event name: the sync ones in order, then the async ones in order.  Never
 * changed once made; whoever uses one holds a reference, and the registry replaces it. */
typedef struct {
    PyObject_VAR_HEAD
    Py_ssize_t n_sync;
    Py_ssize_t n_entries;
    unsigned flags;  /* aeb_plan_flag */
    PyObject *check; /* what checks payloads, see schema.h, or NULL */
    aeb_plan_entry entries[1];
} aeb_plan;

int aeb_plan_init_type(PyObject *module, aeb_state *state);

int aeb_plans_init(aeb_bus *bus);
int aeb_plans_traverse(aeb_bus *bus, visitproc visit, void *arg);
void aeb_plans_clear(aeb_bus *bus);

/* Drops the plans that a change under `key` has made stale.  Releasing them can run finalisers. */
void aeb_plans_drop(aeb_bus *bus, PyObject *key);

/* The same for a change that may concern all of them. */
void aeb_plans_drop_all(aeb_bus *bus);

/* The plan of an event name not in bus->plans yet; *exact_name receives the name as exact str. Both
 * are new references.  NULL with ValueError or TypeError when it is no event name.  The bus holds
 * the plan itself as long as bus->plans_version stays as it is on return. */
aeb_plan *aeb_registry_make_plan(aeb_bus *bus, PyObject *name, PyObject **exact_name);

/* The plan of an event name: one dict look-up for a name seen before. */
static inline aeb_plan *
aeb_registry_plan(aeb_bus *bus, PyObject *name, PyObject **exact_name)
{
    if (AEB_LIKELY(PyUnicode_CheckExact(name))) {
        PyObject *plan = PyDict_GetItemWithError(bus->plans, name);
        if (AEB_LIKELY(plan != NULL)) {
            *exact_name = Py_NewRef(name);
            return (aeb_plan *)Py_NewRef(plan);
        }
    }
    return aeb_registry_make_plan(bus, name, exact_name);
}

#endif
