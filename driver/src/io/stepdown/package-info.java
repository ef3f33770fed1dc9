/**
 * The driver kit: runs inside a Spark driver, holds a new job until its {@code go}, lets its queries
 * finish their batch and end when the job's marker is gone, and says in a status file what goes on.
 */
package io.stepdown;
