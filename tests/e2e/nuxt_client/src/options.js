// What a Nuxt page finds in its HTML (build id, module options) and in its address (the route) comes from the query
// string here, so that one static page can be every version, start on every route and use every base path.
const query = new URLSearchParams(window.location.search);

const milliseconds = query.has('reconnect') ? Number(query.get('reconnect')) : undefined;

export const options = {
  buildId: query.get('build') ?? 'build-v1',
  route: query.get('route') ?? '/',
  basePath: query.get('base') ?? '/__skew',
  cookieName: query.get('cookie') ?? '__nkpv',
  routeTracking: query.get('routeTracking') !== '0',
  heartbeat: query.get('heartbeat') === '1',
  reconnect: milliseconds, // undefined: the package's own delay, 5 s
};
