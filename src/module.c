/* agent_event_bus._core: the life cycle of the module.  It only calls each room's initialiser. */
#include "aio.h"
#include "coroutine.h"
#include "dispatch.h"
#include "emission.h"
#include "emitter.h"
#include "event.h"
#include "handler_task.h"
#include "lazy_task.h"
#include "outcome.h"
#include "registry.h"
#include "state.h"

#include "bus.h"

int
aeb_state_add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **slot, bool public)
{
    PyTypeObject *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    if (type == NULL) {
        return -1;
    }
    *slot = type;
#if PY_VERSION_HEX < 0x030A0000
    /* What Py_TPFLAGS_DISALLOW_INSTANTIATION does from 3.10 on: no inherited object.__new__. */
    bool has_new = false;
    for (PyType_Slot *s = spec->slots; s->slot != 0; s++) {
        has_new |= s->slot == Py_tp_new;
    }
    if (!has_new) {
        type->tp_new = NULL;
    }
#endif
    return public ? PyModule_AddType(module, type) : 0;
}

static int
core_init_strings(aeb_state *state)
{
#define AEB_INTERN(field, text)                                                                    \
    state->field = PyUnicode_InternFromString(text);                                               \
    if (state->field == NULL) {                                                                    \
        return -1;                                                                                 \
    }
    AEB_STATE_STRINGS(AEB_INTERN)
#undef AEB_INTERN
    state->any_key = PyUnicode_InternFromString("*");
    state->task_kwnames = Py_BuildValue("(ss)", "loop", "name");
    state->eager_task_kwnames = Py_BuildValue("(sss)", "loop", "name", "eager_start");
    state->log_kwnames = Py_BuildValue("(ss)", "exc_info", "extra");
    if (state->any_key == NULL || state->task_kwnames == NULL ||
        state->eager_task_kwnames == NULL || state->log_kwnames == NULL) {
        return -1;
    }
    return 0;
}

static PyObject *
core_forget_asyncio(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    aeb_aio_forget((aeb_state *)PyModule_GetState(module));
    Py_RETURN_NONE;
}

static PyObject *
core_before_fork(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    AEB_STORE(((aeb_state *)PyModule_GetState(module))->pid, 0);
    Py_RETURN_NONE;
}

static PyObject *
core_after_fork_in_parent(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    AEB_STORE(((aeb_state *)PyModule_GetState(module))->pid, aeb_getpid());
    Py_RETURN_NONE;
}

static PyObject *
core_after_fork(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    aeb_state *state = (aeb_state *)PyModule_GetState(module);
    AEB_STORE(state->pid, aeb_getpid());
    aeb_dispatch_after_fork(state);
    Py_RETURN_NONE;
}

/* os.register_at_fork() with the three above, where there is fork. */
static int
core_register_at_fork(PyObject *module)
{
    PyObject *os = PyImport_ImportModule("os");
    PyObject *reg = NULL, *before = NULL, *in_parent = NULL, *in_child = NULL, *kwargs = NULL,
             *args = NULL, *result = NULL;
    int status = -1;
    if (os == NULL) {
        return -1;
    }
    if (!PyObject_HasAttrString(os, "register_at_fork")) {
        Py_DECREF(os);
        return 0;
    }
    reg = PyObject_GetAttrString(os, "register_at_fork");
    before = PyObject_GetAttrString(module, "_before_fork");
    in_parent = PyObject_GetAttrString(module, "_after_fork_in_parent");
    in_child = PyObject_GetAttrString(module, "_after_fork");
    args = PyTuple_New(0);
    if (reg != NULL && before != NULL && in_parent != NULL && in_child != NULL && args != NULL) {
        kwargs = Py_BuildValue("{sOsOsO}", "before", before, "after_in_parent", in_parent,
                               "after_in_child", in_child);
        result = kwargs == NULL ? NULL : PyObject_Call(reg, args, kwargs);
        status = result == NULL ? -1 : 0;
    }
    Py_XDECREF(result);
    Py_XDECREF(kwargs);
    Py_XDECREF(args);
    Py_XDECREF(in_child);
    Py_XDECREF(in_parent);
    Py_XDECREF(before);
    Py_XDECREF(reg);
    Py_DECREF(os);
    return status;
}

static PyMethodDef core_methods[] = {
    {"_after_fork", core_after_fork, METH_NOARGS,
     PyDoc_STR("_after_fork($module, /)\n--\n\nLearn that this is a forked child, which has none "
               "of the other threads.")},
    {"_after_fork_in_parent", core_after_fork_in_parent, METH_NOARGS,
     PyDoc_STR(
         "_after_fork_in_parent($module, /)\n--\n\nLearn that this is the parent, as before.")},
    {"_before_fork", core_before_fork, METH_NOARGS,
     PyDoc_STR(
         "_before_fork($module, /)\n--\n\nAsk which process this is, until it is known again.")},
    {"_forget_asyncio", core_forget_asyncio, METH_NOARGS,
     PyDoc_STR(
         "_forget_asyncio($module, /)\n--\n\nLet go of asyncio, at the end of an interpreter.")},
    {NULL, NULL, 0, NULL},
};

static int
core_exec(PyObject *module)
{
    aeb_state *state = (aeb_state *)PyModule_GetState(module);
    state->pid = aeb_getpid();
    state->emitting_capacity = 8;
    state->emitting = PyMem_Malloc((size_t)state->emitting_capacity * sizeof(aeb_emitting));
    if (state->emitting == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    if (core_init_strings(state) < 0 || aeb_event_init_type(module, state) < 0 ||
        aeb_registry_init_types(module, state) < 0 ||
        aeb_handler_task_init_type(module, state) < 0 ||
        aeb_emission_init_type(module, state) < 0 || aeb_emitter_init_type(module, state) < 0 ||
        aeb_outcome_init_type(module, state) < 0 || aeb_bus_init_types(module, state) < 0 ||
        core_register_at_fork(module) < 0) {
        return -1;
    }
    return 0;
}

static int
core_traverse(PyObject *module, visitproc visit, void *arg)
{
    aeb_state *state = (aeb_state *)PyModule_GetState(module);
#define AEB_VISIT(name) Py_VISIT(state->name);
#define AEB_VISIT_STRING(name, text) Py_VISIT(state->name);
    AEB_STATE_TYPES(AEB_VISIT)
    AEB_STATE_IMPORTS(AEB_VISIT)
    AEB_STATE_CONSTANTS(AEB_VISIT)
    AEB_STATE_STRINGS(AEB_VISIT_STRING)
#undef AEB_VISIT
#undef AEB_VISIT_STRING
    for (Py_ssize_t i = 0; i < state->n_free_tasks; i++) {
        Py_VISIT(state->free_tasks[i]);
    }
    for (Py_ssize_t i = 0; i < state->n_free_deliveries; i++) {
        Py_VISIT(state->free_deliveries[i]);
    }
    for (int i = 0; i < AEB_MAX_FREE; i++) {
        Py_VISIT(state->stop_iterations[i]);
    }
    return 0;
}

/* Breaks the cycles a collection can find.  Types and imports only: strings and tuples are part of
 * none, and a handler's finaliser that emits late in the same collection needs them. */
static int
core_clear(PyObject *module)
{
    aeb_state *state = (aeb_state *)PyModule_GetState(module);
    aeb_task_forget(state);
    aeb_handler_task_forget(state);
    aeb_emission_forget(state);
    aeb_coroutine_forget(state);
#define AEB_CLEAR(name) Py_CLEAR(state->name);
    AEB_STATE_TYPES(AEB_CLEAR)
    AEB_STATE_IMPORTS(AEB_CLEAR)
#undef AEB_CLEAR
    return 0;
}

static void
core_free(void *module)
{
    aeb_state *state = (aeb_state *)PyModule_GetState((PyObject *)module);
    if (state == NULL) {
        return;
    }
    (void)core_clear((PyObject *)module);
#define AEB_CLEAR(name) Py_CLEAR(state->name);
#define AEB_CLEAR_STRING(name, text) Py_CLEAR(state->name);
    AEB_STATE_CONSTANTS(AEB_CLEAR)
    AEB_STATE_STRINGS(AEB_CLEAR_STRING)
#undef AEB_CLEAR
#undef AEB_CLEAR_STRING
    PyMem_Free(state->emitting);
    state->emitting = NULL;
}

static PyModuleDef_Slot core_slots[] = {
    {Py_mod_exec, core_exec},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030D0000
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

PyModuleDef aeb_module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "agent_event_bus._core",
    .m_doc = PyDoc_STR("The native core of agent_event_bus. Import from agent_event_bus instead."),
    .m_size = sizeof(aeb_state),
    .m_methods = core_methods,
    .m_slots = core_slots,
    .m_traverse = core_traverse,
    .m_clear = core_clear,
    .m_free = core_free,
};

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&aeb_module_def);
}
