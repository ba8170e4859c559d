/* Keys and event names: what can be one, and the form that the registry knows it in. */
#ifndef AEB_KEYS_H
#define AEB_KEYS_H

#include "state.h"

/* A subscription key: a class as it is, a text as exact str, `**` folded into `*`; ValueError or
 * TypeError for a bad one. */
PyObject *aeb_key_normalize(PyObject *key);

/* Whether a normalised key or an event name has a "*" in it. */
bool aeb_key_has_star(PyObject *key);

/* What a normalised key is listed under, an exact str or int, so that a look-up runs no Python code:
 * for a class its address, which is its own as long as something is listed.  A new reference. */
PyObject *aeb_key_listed(PyObject *key);

/* The same for a tuple of them: a tuple. */
PyObject *aeb_keys_listed(PyObject *keys);

/* An event name as exact str; ValueError or TypeError when it cannot be one. */
PyObject *aeb_event_name_normalize(PyObject *name);

#endif
