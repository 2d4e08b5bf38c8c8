/** The release this bundle was built as; vite.config.ts stamps it. */
declare const BUILD_ID: string;
