/* Event: one immutable record of something that happened on a bus. */
#ifndef AEB_EVENT_H
#define AEB_EVENT_H

#include "state.h"

int aeb_event_init_type(PyObject *module, aeb_state *state);

/* A new Event stamped with the current time, or NULL. */
PyObject *aeb_event_new(aeb_state *state, PyObject *name, PyObject *payload, uint64_t seq);

#endif
