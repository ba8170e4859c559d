/* Subscribing and unsubscribing: the arguments of on, once, subscribe, off and clear. */
#ifndef AEB_SUBSCRIBE_H
#define AEB_SUBSCRIBE_H

#include "bus_object.h"

int aeb_subscribe_init_type(PyObject *module, aeb_state *state);

/* on(key, handler) and on(key), and the same for once; `function` names it in errors. */
PyObject *aeb_on_or_once(aeb_bus *bus, const char *function, PyObject *const *args,
                         Py_ssize_t nargs, PyObject *kwnames, bool once);

/* subscribe(key_or_keys, handler); a `listener` is a handler of the bus's own: see _listener.py. */
PyObject *aeb_subscribe(aeb_bus *bus, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                        bool listener);

/* Ends the subscriptions with this key (NULL: all) and handler (NULL: any); how many there were. */
PyObject *aeb_unsubscribe(aeb_bus *bus, PyObject *key, PyObject *handler);

#endif
