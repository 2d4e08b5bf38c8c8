import { createHeadcount } from 'headcount-client';
import { HeadcountProvider, useActiveConnections } from 'headcount-client/react';
import { StrictMode } from 'react';
import { createRoot } from 'react-dom/client';

const headcount = createHeadcount({ version: import.meta.env.VITE_BUILD_ID, routeTracking: true });

function Total() {
  // Renders when the total changes, and not when somebody navigates.
  const total = useActiveConnections((live) => live.total);
  return <strong>{total}</strong>;
}

function Figures() {
  const { authorized, versions } = useActiveConnections();
  if (!authorized) return <p>Not authorised for live stats</p>;
  return (
    <>
      <p>
        <Total /> pages are open
      </p>
      <ul>
        {Object.entries(versions).map(([version, count]) => (
          <li key={version}>
            {version}: {count}
          </li>
        ))}
      </ul>
    </>
  );
}

createRoot(document.querySelector('#app')!).render(
  <StrictMode>
    <HeadcountProvider headcount={headcount}>
      <Figures />
    </HeadcountProvider>
  </StrictMode>,
);
