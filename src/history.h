/* History: the last events of a bus, in a bounded ring. */
#ifndef AEB_HISTORY_H
#define AEB_HISTORY_H

#include "bus_object.h"
#include "dispatch.h"

/* Keeps the last `limit` events from now on and forgets those kept so far.  Can run finalisers. */
void aeb_history_configure(aeb_bus *bus, Py_ssize_t limit);

/* Keeps an Event of this occasion, and puts it into occasion->event, too, when that is `wanted`.
 * 0 or -1.  Can run finalisers, after the history is sound. */
int aeb_history_record(aeb_bus *bus, aeb_occasion *occasion, bool wanted);

/* The method history(). */
PyObject *aeb_history(aeb_bus *bus, PyObject *args, PyObject *kwargs);
extern const char aeb_history_doc[];

int aeb_history_traverse(aeb_bus *bus, visitproc visit, void *arg);
void aeb_history_clear(aeb_bus *bus);

#endif
