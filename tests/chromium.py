"""A browser for tests, driven through the pipe of its DevTools protocol with the standard library alone."""

import base64
import contextlib
import itertools
import json
import os
import select
import subprocess
import sys
import time

# The browser reads commands from descriptor 3 and writes answers to 4, each a JSON text that ends with a zero byte.
_START = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3), os.dup2(ends[1], 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
)


class Browser:
    """One page of a headless browser; what it asks of the network, and what goes wrong in its scripts, is kept."""

    def __init__(self, program, folder):
        (theirs, self._out), (self._in, answers) = os.pipe(), os.pipe()
        words = [program, *_FLAGS, "--remote-debugging-pipe", f"--user-data-dir={folder}", "about:blank"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", _START, str(theirs), str(answers), *words], pass_fds=(theirs, answers),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs), os.close(answers)
        self._numbers, self._rest, self._session = itertools.count(1), b"", None
        self.asked, self.errors, self.loaded = [], [], 0
        target = next(t for t in self.do("Target.getTargets")["targetInfos"] if t["type"] == "page")["targetId"]
        self._session = self.do("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for part in ("Page", "Runtime", "Network"):
            self.do(f"{part}.enable")

    def _message(self):
        """The next text that the browser sends."""
        end = time.monotonic() + 60
        while b"\0" not in self._rest:
            if not select.select([self._in], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            if not (part := os.read(self._in, 1 << 20)):
                raise ConnectionError("the browser has ended")
            self._rest += part
        text, _, self._rest = self._rest.partition(b"\0")
        found = json.loads(text)
        if found.get("method") == "Network.requestWillBeSent":
            self.asked.append(found["params"]["request"]["url"])
        if found.get("method") == "Runtime.exceptionThrown":
            self.errors.append(found["params"]["exceptionDetails"])
        self.loaded += found.get("method") == "Page.loadEventFired"
        return found

    def do(self, method, **parameters):
        """The answer to a command of the protocol."""
        number = next(self._numbers)
        command = {"id": number, "method": method, "params": parameters}
        command |= {"sessionId": self._session} if self._session else {}
        os.write(self._out, json.dumps(command).encode() + b"\0")
        while (found := self._message()).get("id") != number:
            pass
        assert "error" not in found, found
        return found["result"]

    def open(self, address):
        """Load a page, and wait until it is there."""
        for each in ("about:blank", address):  # for the same page with another fragment is not loaded again
            before = self.loaded
            self.do("Page.navigate", url=each)
            while self.loaded == before:
                self._message()

    def run(self, script):
        """The value of an expression."""
        answer = self.do("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key):
        """Press and let go a key, such as ArrowLeft."""
        codes = {"ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "End": 35}
        for kind in ("rawKeyDown", "keyUp"):
            self.do("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key])

    def size(self, width, height=900):
        self.do("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def dark(self, dark):
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.do("Emulation.setEmulatedMedia", features=features)

    def screenshot(self):
        """The whole page as a PNG."""
        return base64.b64decode(self.do("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def close(self):
        with contextlib.suppress(OSError, ConnectionError, TimeoutError):
            self.do("Browser.close")
        self.process.terminate()
        self.process.wait()
        os.close(self._in), os.close(self._out)
