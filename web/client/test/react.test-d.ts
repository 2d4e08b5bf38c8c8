import { expectTypeOf, test } from 'vitest';
import type { ConnectionInfo, Headcount } from '../src/index.js';
import { useActiveConnections } from '../src/react.js';

test('the six names are plain values of the documented types', () => {
  const { total, versions, routes, connections, yourId, authorized } = useActiveConnections();
  expectTypeOf(total).toEqualTypeOf<number>();
  expectTypeOf(versions).toEqualTypeOf<Record<string, number>>();
  expectTypeOf(routes).toEqualTypeOf<Record<string, number>>();
  expectTypeOf(connections).toEqualTypeOf<ConnectionInfo[]>();
  expectTypeOf(yourId).toEqualTypeOf<string | undefined>();
  expectTypeOf(authorized).toEqualTypeOf<boolean | null>();
});

test('a selector gives the type of what it selects', () => {
  expectTypeOf(useActiveConnections((live) => live.total)).toEqualTypeOf<number>();
  expectTypeOf(useActiveConnections(({ yourId }) => ({ yourId }))).toEqualTypeOf<{ yourId: string | undefined }>();
  expectTypeOf(useActiveConnections((live) => live.error, {} as Headcount)).toEqualTypeOf<string | null>();
});
