/* How many events of each name a bus has emitted. */
#ifndef AEB_COUNTER_H
#define AEB_COUNTER_H

#include "bus_object.h"

/* The count of one name, or the one that all names share for which there is no room.  The plans of a
 * name point to its counter, so that an emission counts itself with one increment. */
typedef struct {
    PyObject_HEAD
    AEB_SHARED uint64_t n;
} aeb_counter;

int aeb_counter_init_type(PyObject *module, aeb_state *state);

int aeb_counters_init(aeb_bus *bus);
int aeb_counters_traverse(aeb_bus *bus, visitproc visit, void *arg);
void aeb_counters_free(aeb_bus *bus);

/* The counter of an event name, an exact str.  A new reference, or NULL. */
aeb_counter *aeb_counter_of(aeb_bus *bus, PyObject *name);

/* The events emitted so far, by name, in a new dict; under "*" those of names for which there was no
 * room.  *total is their sum.  NULL with an exception. */
PyObject *aeb_registry_counts(aeb_bus *bus, uint64_t *total);

#endif
