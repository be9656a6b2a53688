/*
 * Proof that each processor goes on
 *
 * Theory of operation: with lab.cpus=1 a thread on each processor counts ten times a second.  Each looks at what time the others
 * have seen, which its own clock must not be behind.  Once a second the counts are on the console, "lab: cpus 12 13"; a
 * thread that is elsewhere, or a clock that went back, is a finding ("lab: BAD …").
 */
#pragma once

/* Once, where it is wanted. */
void cpus_start(unsigned count);

/* Nothing, where they were not started. */
void cpus_tell(void);
