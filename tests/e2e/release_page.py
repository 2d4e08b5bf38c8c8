"""The document of the applications for tests of `headcount-client/release`."""

PAGE = """<!doctype html><meta charset="utf-8"><title>{version}</title>
<meta name="headcount-version" content="{version}">
<headcount-update></headcount-update>
<form><label>Name <input name="name"></label></form>
<a href="/orders?open=1#last">Orders</a> <a href="/parts/{version}?deep=1">Parts</a>
<script type="module">
  import {{ createHeadcount }} from "/__skew/client.js"
  import {{ createRelease }} from "/__skew/release.js"
  import {{ shared }} from "/__skew/shared.js"
  import "/__skew/release-element.js"
  const version = "{version}"
  const query = new URLSearchParams(location.search)
  const updateStrategy = query.get("strategy") ?? undefined
  const headcount = createHeadcount({{ version, updateStrategy, stream: query.has("shared") ? shared : undefined }})
  const mode = query.get("mode") ?? sessionStorage.mode ?? "prompt"
  sessionStorage.mode = mode
  window.headcount = headcount
  window.release = createRelease({{ version, headcount, mode, spreadMs: 0 }})
  headcount.connect()
  // A router: the parts of a page are loaded when they are needed.
  addEventListener("click", async (event) => {{
    const link = event.target.closest("a")
    if (!link) return
    event.preventDefault()
    if (link.pathname.startsWith("/parts/")) await import(link.pathname + ".js")
    history.pushState(null, "", link.href)
  }})
</script>"""

PLAY = """async () => {
  // A second of silence, as PCM.
  const head = [0x46464952, 8036, 0x45564157, 0x20746d66, 16, 0x10001, 8000, 8000, 0x80001, 0x61746164, 8000]
  const wave = new Uint8Array(8044).fill(128)
  wave.set(new Uint8Array(new Uint32Array(head).buffer))
  const audio = document.createElement("audio")
  Object.assign(audio, { loop: true, muted: true, src: URL.createObjectURL(new Blob([wave], { type: "audio/wav" })) })
  document.body.append(audio)
  await audio.play()
}"""
"""Plays something until it is paused."""
