/* Emission: the coroutine object that emit_async returns. */
#ifndef AEB_EMISSION_H
#define AEB_EMISSION_H

#include "bus_object.h"

int aeb_emission_init_type(PyObject *module, aeb_state *state);

/* Frees the memory kept for reuse. */
void aeb_emission_forget(aeb_state *state);

/* An emission of an event, which begins when it is awaited. */
PyObject *aeb_emission_new(aeb_bus *bus, PyObject *name, PyObject *payload);

/* The same whose answer is the list of outcomes. */
PyObject *aeb_emission_new_collecting(aeb_bus *bus, PyObject *name, PyObject *payload);

/* An emission of a published object. */
PyObject *aeb_emission_of_object(aeb_bus *bus, PyObject *obj);

/* An emission that only runs the given deliveries, a list of unstarted HandlerTask; `outcomes` is the
 * list that collects how they end, or NULL. */
PyObject *aeb_emission_of_deliveries(aeb_bus *bus, PyObject *name, PyObject *deliveries,
                                     PyObject *outcomes, bool nested);

struct aeb_watch;

/* Tells a watch, unless that is NULL, of the slowest handler of an emission that was made in this way.
 * This must be done when it is over. */
void aeb_emission_tell_watch(PyObject *emission, struct aeb_watch *watch);

#endif
