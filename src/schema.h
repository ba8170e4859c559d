/* Declared events: the schema of each, and the names that a strict bus admits. */
#ifndef AEB_SCHEMA_H
#define AEB_SCHEMA_H

#include "plan.h"

/* Declares an event.  `checker` is called as checker(name, payload) and raises for a bad payload;
 * None: any payload will do.  `schema` is what the user gave, to tell whether a later declaration is
 * the same one.  0; or -1 with ValueError for a name that has another schema, and with ValueError or
 * TypeError for what is no event name. */
int aeb_schema_define(aeb_bus *bus, PyObject *name, PyObject *schema, PyObject *checker);

/* Gives a new plan the checker of its event name, if there is one. */
void aeb_schema_apply(aeb_bus *bus, aeb_plan *plan);

/* Calls a checker.  0, or -1 with what it raised. */
int aeb_schema_check(PyObject *checker, PyObject *name, PyObject *payload);

/* 0 when the bus admits this name, an exact str; -1 with UnknownEventError when it is strict and the
 * name was never declared. */
int aeb_schema_admit(aeb_bus *bus, PyObject *name);

/* The same for a tuple of keys, of which those that are no exact names are free. */
int aeb_schema_admit_keys(aeb_bus *bus, PyObject *keys);

int aeb_schema_traverse(aeb_bus *bus, visitproc visit, void *arg);
void aeb_schema_clear(aeb_bus *bus);

#endif
