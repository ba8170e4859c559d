/* Event: one immutable record of something that happened on a bus. */
#ifndef AEB_EVENT_H
#define AEB_EVENT_H

#include "state.h"

typedef struct {
    PyObject_HEAD
    PyObject *name;
    PyObject *payload;
    PyObject *weakrefs;
    uint64_t seq;
    double timestamp;
    bool published; /* by publish(): classes are keys of it */
} aeb_event;

int aeb_event_init_type(PyObject *module, aeb_state *state);

/* A new Event stamped with the current time, or NULL. */
PyObject *aeb_event_new(aeb_state *state, PyObject *name, PyObject *payload, uint64_t seq);

/* Makes an event that only the caller has another one, stamped with the current time.  False, and
 * nothing has changed, when others may have it.  *old_name and *old_payload receive what was in it, to
 * be released once everything is in order. */
bool aeb_event_renew(aeb_event *event, PyObject *name, PyObject *payload, uint64_t seq,
                     PyObject **old_name, PyObject **old_payload);

#endif
