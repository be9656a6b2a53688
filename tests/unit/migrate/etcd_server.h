/* An etcd of one member for a group of tests, where there is one on this machine */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <glib.h>

int etcd_server_set_up(void **state);
int etcd_server_tear_down(void **state);

gboolean etcd_server_is_there(void);
/* Skips the test where it is not. */
void etcd_server_need(void);

/* etcd://127.0.0.1:PORT */
const char *etcd_server_address(void);
guint etcd_server_port(void);

/* As in a crash; what it has said is on its disk. */
void etcd_server_kill(void);
void etcd_server_start(void);

/* A socket that listens, on a port of its own. */
int listen_somewhere(guint *ret_port);
