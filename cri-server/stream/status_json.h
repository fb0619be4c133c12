/* How a session's end is told on its error stream. Stateless. */
#pragma once

/*
 * A metav1.Status, as v4 and v5 of channel.k8s.io have it. message NULL: the process ended, with
 * exit_code. The caller frees; NULL when memory is out.
 */
char *status_json(const char *message, int exit_code);
/* The text of older versions; empty where all went well. The caller frees. */
char *status_text(const char *message, int exit_code);
