#!/usr/bin/env python3
"""vmferry image, on the golden files.  $1: the vmferry program, $2: the folder with them."""

import json
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

VMFERRY = sys.argv[1]
GOLDEN = Path(sys.argv[2])
FULL_ID = "01" * 16
INCREMENT_ID = "02" * 16


class Image(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="vmferry-image-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        for name in ("full.vmfi", "increment.vmfi"):
            shutil.copy(GOLDEN / name, self.folder)
        self.full, self.increment = self.folder / "full.vmfi", self.folder / "increment.vmfi"

    def run_image(self, *arguments, code=0):
        done = subprocess.run([VMFERRY, "image", *map(str, arguments)], text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done.stdout, done.stderr

    def run_json(self, *arguments, code=0):
        return json.loads(self.run_image(*arguments, "--json", code=code)[0])

    def test_info(self):
        info = self.run_json("info", self.increment)
        self.assertEqual(info["id"], INCREMENT_ID)
        self.assertEqual(info["base"], FULL_ID)
        self.assertEqual(info["base_name"], "full.vmfi")
        self.assertEqual(info["chain"], [{"file": str(self.increment), "id": INCREMENT_ID},
                                         {"file": str(self.full), "id": FULL_ID}])
        self.assertIsNone(info["chain_error"])
        self.assertEqual((info["extents"], info["pages"], info["state_bytes"]), (1, 3, 11))
        self.assertEqual(info["memory_bytes"], 602 * 4096)
        self.assertEqual(info["file_bytes"], self.increment.stat().st_size)
        self.assertEqual(info["regions"][0], {"name": "pc.ram", "pages": 600})
        self.assertEqual(info["machine"], {"name": "golden"})
        self.assertEqual(info["note"], {"time": 1790000000})
        text, _ = self.run_image("info", self.increment)
        self.assertIn(str(self.full), text)
        self.assertIn(FULL_ID, text)

    def test_info_without_base(self):
        self.full.unlink()
        info = self.run_json("info", self.increment)
        self.assertEqual(info["chain"], [])
        self.assertIn("full.vmfi: No such file", info["chain_error"])
        self.assertEqual(info["base"], FULL_ID)
        self.assertIn("--base", self.run_image("info", self.increment)[0])

    def test_verify(self):
        result = self.run_json("verify", self.increment)
        self.assertEqual(result, {"status": "whole", "files": 2, "extents": 4, "damaged": 0,
                                  "damages": [], "disk_files": []})
        self.assertIn("is whole: 4 extents in 2 files", self.run_image("verify", self.increment)[0])

    def test_verify_damaged(self):
        """A byte of the base's first extent."""
        with open(self.full, "r+b") as file:
            file.seek(4100)
            byte = file.read(1)
            file.seek(4100)
            file.write(bytes([byte[0] ^ 1]))
        result = self.run_json("verify", self.increment, code=1)
        self.assertEqual((result["status"], result["damaged"]), ("damaged", 1))
        self.assertIn(f"{self.full}: extent of ", result["damages"][0])
        self.assertIn("at 4096: its bytes are damaged", result["damages"][0])
        self.assertIn("1 of 4 extents are damaged",
                      self.run_image("verify", self.increment, code=1)[1])

    def test_verify_with_base(self):
        moved = self.folder / "moved"
        self.full.rename(moved)
        self.assertIn("--base", self.run_image("verify", self.increment, code=1)[1])
        self.run_image("verify", self.increment, "--base", moved)

    def test_list(self):
        shutil.copy(GOLDEN / "keyed.vmfi", self.folder)
        (self.folder / "other").write_text("no image")
        (self.folder / "cut").write_bytes(self.full.read_bytes()[:5000])
        images = {Path(image["file"]).name: image
                  for image in self.run_json("list", self.folder)["images"]}
        self.assertEqual(sorted(images), ["cut", "full.vmfi", "increment.vmfi", "keyed.vmfi"])
        self.assertIsNone(images["full.vmfi"]["name"])
        self.assertIsNone(images["full.vmfi"]["error"])
        self.assertEqual(images["increment.vmfi"]["base"], FULL_ID)
        self.assertIn("its end is missing", images["cut"]["error"])
        self.assertIn("key is needed", images["keyed.vmfi"]["error"])
        lines = self.run_image("list", self.folder)[0].splitlines()
        row = next(line for line in lines if line.startswith(str(self.increment)))
        self.assertIn(INCREMENT_ID, row)
        self.assertTrue(row.rstrip().endswith(str(self.full)), row)
        self.full.unlink()
        self.assertIn(f"not here: {FULL_ID}", self.run_image("list", self.folder)[0])

    def test_list_nothing(self):
        for path in self.folder.iterdir():
            path.unlink()
        self.assertIn("There are no saved images", self.run_image("list", self.folder)[0])

    def test_merge(self):
        merged = self.folder / "merged"
        result = self.run_json("merge", self.increment, merged)
        self.assertEqual((result["file"], result["merged"]), (str(merged), 2))
        self.full.unlink()
        info = self.run_json("info", merged)
        self.assertEqual((info["id"], info["base"]), (result["id"], None))
        self.assertEqual(info["pages"], 16)  # 10 + 10, 4 of them zero now
        self.run_image("verify", merged)
        _, text = self.run_image("merge", merged, merged, code=1)
        self.assertIn("--overwrite", text)
        self.run_image("merge", merged, merged, "--overwrite")
        self.assertEqual(self.run_json("info", merged)["pages"], 16)

    def test_key(self):
        key = self.folder / "key"
        keyed = GOLDEN / "keyed.vmfi"
        key.write_text("golden key, 26 bytes long.")
        self.assertEqual(self.run_json("info", keyed, "--key-file", key)["digest"], "hmac-sha-256")
        self.run_image("verify", keyed, "--key-file", key)
        self.assertIn("--key-file", self.run_image("verify", keyed, code=1)[1])
        key.write_text("another key, 27 bytes long.")
        self.assertEqual(self.run_json("verify", keyed, "--key-file", key, code=1)["error"]["code"],
                         "refused")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
