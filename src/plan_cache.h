/* The plans that a bus keeps: found by event name or class, made at the first emission, dropped when
 * the subscriptions change. */
#ifndef AEB_PLAN_CACHE_H
#define AEB_PLAN_CACHE_H

#include "plan.h"

int aeb_plans_init(aeb_bus *bus);
int aeb_plans_traverse(aeb_bus *bus, visitproc visit, void *arg);
void aeb_plans_free(aeb_bus *bus);

/* Drops the plans that a change under a normalised key has made stale, under the lock of the bus.
 * Releasing them can run finalisers. */
void aeb_plans_drop_locked(aeb_bus *bus, PyObject *key);

/* The same for a change that may concern all of them. */
void aeb_plans_drop_all_locked(aeb_bus *bus);

/* The plan of an event name that is no exact str or not in bus->plans yet.  A new reference; NULL with
 * ValueError or TypeError when it is no event name.  The bus holds the plan itself as long as
 * bus->plans_version stays as it is on return. */
aeb_plan *aeb_registry_make_plan(aeb_bus *bus, PyObject *name);

/* The plan of an event name: one dict look-up for a name seen before.  Its `name` is the exact str. */
static inline aeb_plan *
aeb_registry_plan(aeb_bus *bus, PyObject *name)
{
    if (AEB_LIKELY(PyUnicode_CheckExact(name))) {
        PyObject *plan;
        AEB_LOCK(bus);
        plan = Py_XNewRef(PyDict_GetItemWithError(bus->plans, name));
        AEB_UNLOCK();
        if (AEB_LIKELY(plan != NULL)) {
            return (aeb_plan *)plan;
        }
    }
    return aeb_registry_make_plan(bus, name);
}

/* The plan of the published objects of a class, whose `name` is that of the event.  A new reference,
 * or NULL. */
aeb_plan *aeb_registry_class_plan(aeb_bus *bus, PyTypeObject *type);

#endif
