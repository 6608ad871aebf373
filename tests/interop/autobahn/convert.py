# mypy: ignore-errors
"""Makes Python 3 of the Autobahn test suite, which is Python 2: `convert.py SOURCE_PACKAGE DESTINATION`.

lib2to3 does most of it; what remains is that texts were bytes, and names that have changed in autobahn since.
"""

import glob, os, re, shutil, subprocess, sys

src, dst = sys.argv[1], os.path.join(sys.argv[2], "autobahntestsuite")
shutil.copytree(src, dst)
for p in glob.glob(dst + "/wamp*") + glob.glob(dst + "/wsperf*") + [dst + "/serializer.py", dst + "/testdb.py"]:
    (shutil.rmtree if os.path.isdir(p) else os.remove)(p)
for p in glob.glob(dst + "/case/*.py"):  # Python 2 str = bytes: keep each octet as one Latin-1 character
    s = open(p, "rb").read().decode("latin-1")
    open(p, "w", encoding="utf-8").write(s)
subprocess.run(
    [sys.executable, "-m", "lib2to3", "-w", "-n", "--no-diffs", dst],
    check=True,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
)
open(dst + "/_py2.py", "w").write("""
def b(x): return x.encode('latin-1') if isinstance(x, str) else x
def l1(x): return x.decode('latin-1') if isinstance(x, (bytes, bytearray)) else x
def hex2(x): return b(bytes([x]) if isinstance(x, int) else x).hex()
""")
SNAKE = dict(
    requestNoContextTakeover="request_no_context_takeover",
    requestMaxWindowBits="request_max_window_bits",
    acceptNoContextTakeover="accept_no_context_takeover",
    acceptMaxWindowBits="accept_max_window_bits",
    noContextTakeover="no_context_takeover",
    windowBits="window_bits",
    memLevel="mem_level",
)
for p in glob.glob(dst + "/*.py") + glob.glob(dst + "/case/*.py"):
    s = open(p, encoding="utf-8").read()
    case = "/case/" in p
    f = os.path.basename(p)
    s = re.sub(r"(, )?debug ?= ?debug, debugCodePaths ?= ?debug", "", s)
    s = re.sub(r"binascii\.(b2a_hex|hexlify)\(", "_py2.hex2(", s)
    s = re.sub(r"^(from \. )?import serializer$", "", s, flags=re.M).replace(
        "from autobahn.websocket.xormasker import XorMaskerNull", "XorMaskerNull = None"
    )
    if case:
        s = re.sub(r'\.encode\(("|\')utf-?8("|\')\)', '.encode("utf-8").decode("latin-1")', s)
        s = (
            s.replace("(object, Case, )", "(Case, )")
            .replace("v.validate(vss[:i])", "v.validate(_py2.b(vss[:i]))")
            .replace("from zope.interface import implements", "implements = lambda *a: None")
        )
        s = re.sub(r"m\.update\((\w+)\)", r"m.update(_py2.b(\1))", s).replace(
            "len(self.payload) / self", "len(self.payload) // self"
        )
        if f == "case.py":
            s = s.replace(
                "return pickle.dumps(obj1) == pickle.dumps(obj2)",
                "n = lambda o: [tuple(_py2.l1(x) for x in e) for e in o]; return n(obj1) == n(obj2)",
            )
            for a, v in (
                ('"message", msg,', '"message", _py2.l1(msg),'),
                ('("ping", payload)', '("ping", _py2.l1(payload))'),
                ('("pong", payload)', '("pong", _py2.l1(payload))'),
            ):
                s = s.replace(a, v)
    if f in ("case12_x_x.py", "case.py", "testee.py"):
        for a, v in SNAKE.items():
            s = re.sub(r"\b%s\b" % a, v, s)
    if f == "fuzzing.py":
        s = (
            s.replace("''.join(payload)", "b''.join(payload)")
            .replace("return dd.decode('utf8'", "return _py2.b(dd).decode('utf8'")
            .replace("ll.encode('utf8')", "ll")
            .replace("putChild('cwd'", "putChild(b'cwd'")
        )
        s = s.replace("json.dumps(len(self.factory.specCases))", "json.dumps(len(self.factory.specCases)).encode()").replace(
            "self.sendMessage(json.dumps({", "self.sendMessage(_J({"
        )
        s = re.sub(r'\.encode\("utf-?8"\)\)$', ")", s, flags=re.M)
        s = re.sub(r"json\.dumps\((caseResults?|case|res|data|\w+), ", r"json.dumps(\1, default = _py2.l1, ", s)
        s = s.replace(
            "class FuzzingProtocol:",
            """class _J(bytes):
   def __new__(c, o): return bytes.__new__(c, json.dumps(o).encode())


class FuzzingProtocol:
   debug = False
   def sendFrame(self, opcode, payload = b'', *a, **k): return super().sendFrame(opcode, _py2.b(payload), *a, **k)
   def sendMessage(self, payload, isBinary = False, *a, **k): return super().sendMessage(_py2.b(payload), isBinary, *a, **k)
   def sendPing(self, payload = None): return super().sendPing(_py2.b(payload))
   def sendPong(self, payload = None): return super().sendPong(_py2.b(payload))
   def sendCloseFrame(self, code = None, reasonUtf8 = None, isReply = False): return super().sendCloseFrame(code = code, reasonUtf8 = _py2.b(reasonUtf8), isReply = isReply)
   def sendMessageFrame(self, payload, sync = False): return super().sendMessageFrame(_py2.b(payload), sync)
   def sendMessageFrameData(self, payload, sync = False): return super().sendMessageFrameData(_py2.b(payload), sync)
   def sendData(self, data, *a, **k): return super().sendData(_py2.b(data), *a, **k)
""",
            1,
        )
    if "_py2." in s:
        s = ("from .. import _py2\n" if case else "from . import _py2\n") + s
    open(p, "w", encoding="utf-8").write(s)
