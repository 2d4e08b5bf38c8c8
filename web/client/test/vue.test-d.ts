import { expectTypeOf, test } from 'vitest';
import type { ComputedRef } from 'vue';
import type { ConnectionInfo } from '../src/index.js';
import { useActiveConnections } from '../src/vue.js';

test('the six names are computed refs of the documented types', () => {
  const { total, versions, routes, connections, yourId, authorized } = useActiveConnections();
  expectTypeOf(total).toEqualTypeOf<ComputedRef<number>>();
  expectTypeOf(versions).toEqualTypeOf<ComputedRef<Record<string, number>>>();
  expectTypeOf(routes).toEqualTypeOf<ComputedRef<Record<string, number>>>();
  expectTypeOf(connections).toEqualTypeOf<ComputedRef<ConnectionInfo[]>>();
  expectTypeOf(yourId).toEqualTypeOf<ComputedRef<string | undefined>>();
  expectTypeOf(authorized).toEqualTypeOf<ComputedRef<boolean | null>>();
});

test('so are the names beside them', () => {
  const { status, error, isStale, partial } = useActiveConnections();
  expectTypeOf(status).toEqualTypeOf<ComputedRef<'idle' | 'connecting' | 'open' | 'reconnecting' | 'closed'>>();
  expectTypeOf(error).toEqualTypeOf<ComputedRef<string | null>>();
  expectTypeOf(isStale).toEqualTypeOf<ComputedRef<boolean>>();
  expectTypeOf(partial).toEqualTypeOf<ComputedRef<boolean>>();
});

test('a connection has an address only with IP tracking', () => {
  expectTypeOf<ConnectionInfo['id']>().toEqualTypeOf<string>();
  expectTypeOf<ConnectionInfo>().toHaveProperty('version');
  expectTypeOf<ConnectionInfo>().toHaveProperty('route');
  expectTypeOf<ConnectionInfo['ip']>().toEqualTypeOf<string | undefined>();
});
