/* `vmferry-sim cluster`: plays the control engine's policy over a simulated cluster. */
#pragma once

/* The program's exit status: 0, or 2 for wrong usage. */
int cluster_command(int argc, char **argv);
