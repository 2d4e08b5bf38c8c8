/** Calls functions of the application, whose errors stop nothing of ours. Tests: test/index.test.ts. */

/** Reports an error of the application's code as an uncaught one, when the present task is over. */
export function report(error: unknown): void {
  setTimeout(() => {
    throw error;
  });
}

/** Calls each listener. An error is reported, and stops neither the other listeners nor the caller. */
export function notify<T>(listeners: Iterable<(value: T) => void>, value: T): void {
  for (const listener of [...listeners]) {
    try {
      listener(value);
    } catch (error) {
      report(error);
    }
  }
}
