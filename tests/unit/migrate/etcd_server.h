/* An etcd of one or three members for a group of tests, where there is one on this machine */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <glib.h>

#define ETCD_SERVER_MEMBERS 3

int etcd_server_set_up(void **state);
int etcd_server_set_up_three(void **state);
int etcd_server_tear_down(void **state);

gboolean etcd_server_is_there(void);
/* Skips the test where it is not. */
void etcd_server_need(void);

/* All members, as a witness's address. */
const char *etcd_server_address(void);
/* The first one's. */
guint etcd_server_port(void);

/* As in a crash; what it has said is on its disk. */
void etcd_server_kill(guint member);
void etcd_server_start(guint member);
/* Until it answers. */
void etcd_server_await(void);

/* A socket that listens, on a port of its own. */
int listen_somewhere(guint *ret_port);
