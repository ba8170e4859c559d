/* Keys and event names: which texts can be one, and the form that the registry knows them in. */
#ifndef AEB_KEYS_H
#define AEB_KEYS_H

#include "state.h"

/* A subscription key as exact str, `**` folded into `*`; ValueError or TypeError for a bad one. */
PyObject *aeb_key_normalize(PyObject *key);

/* An event name as exact str; ValueError or TypeError when it cannot be one. */
PyObject *aeb_event_name_normalize(PyObject *name);

#endif
