"""A LeRobot dataset as others have it: own column names, degrees, two oblong cameras, no labels of success."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from agents.video import write_frames

CAMERAS = ("front", "wrist")
HEIGHT, WIDTH, FPS = 32, 48, 10
ACTION_NAMES = ("shoulder", "elbow", "broken", "idle", "hand")


def foreign_actions(index: int, length: int) -> np.ndarray:
    """Actions ``(T, 5)`` of an episode: degrees, a constant, a tremor, and a hand from 0 to 250."""
    rng = np.random.default_rng(index)
    steps = np.linspace(0, 1, length)[:, None]
    moving = rng.uniform(-90, 0, 2) + steps * rng.uniform(30, 90, 2)
    tremor = 12 + rng.normal(0, 0.05, (length, 1))
    return np.hstack([moving, np.full((length, 1), 7.0), tremor, 250 * (steps > rng.uniform(0.3, 0.7))])


def foreign_frames(index: int, length: int, camera: str) -> np.ndarray:
    """Pictures ``(T, 32, 48, 3)`` uint8: a square that goes as shoulder and elbow say; from the wrist all is dark."""
    frames = np.full((length, HEIGHT, WIDTH, 3), 120 if camera == "front" else 30, np.uint8)
    for frame, action in zip(frames, foreign_actions(index, length), strict=True):
        x, y = int((action[0] + 90) / 180 * (WIDTH - 8)), int((action[1] + 90) / 180 * (HEIGHT - 8))
        frame[y : y + 8, x : x + 8] = (200, 30, 30)
    return frames


def write_foreign(
    root: Path, *, version: str = "v3.0", episodes: int = 12, length: int = 24, tasks: tuple[str, ...] = ("press",)
) -> Path:
    """Write the dataset in the layout of v3.0 (all episodes in one table and one video) or of v2.1 (one file each).

    Its episodes show one task after the other.
    """
    (root / "meta").mkdir(parents=True)
    older = version.startswith("v2")
    for camera in CAMERAS:
        if older:
            for index in range(episodes):
                path = root / f"videos/chunk-{index // 8:03d}/{camera}/episode_{index:06d}.mp4"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_frames(path, list(foreign_frames(index, length, camera)), FPS)
        else:
            path = root / f"videos/{camera}/chunk-000/file-000.mp4"
            path.parent.mkdir(parents=True)
            frames = [frame for index in range(episodes) for frame in foreign_frames(index, length, camera)]
            write_frames(path, frames, FPS)
    tables = [_table(index, length) for index in range(episodes)]
    if older:
        for index, table in enumerate(tables):
            path = root / f"data/chunk-{index // 8:03d}/episode_{index:06d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, path)
        shown = [[tasks[index % len(tasks)]] for index in range(episodes)]
        lines = [{"episode_index": index, "tasks": words, "length": length} for index, words in enumerate(shown)]
        (root / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
        numbered = [json.dumps({"task_index": index, "task": words}) for index, words in enumerate(tasks)]
        (root / "meta/tasks.jsonl").write_text("\n".join(numbered) + "\n")
    else:
        (root / "data/chunk-000").mkdir(parents=True)
        pq.write_table(pa.concat_tables(tables), root / "data/chunk-000/file-000.parquet")
        (root / "meta/episodes/chunk-000").mkdir(parents=True)
        pq.write_table(_episodes(episodes, length, tasks), root / "meta/episodes/chunk-000/file-000.parquet")
        table = pa.table({"task_index": list(range(len(tasks))), "task": list(tasks)})
        pq.write_table(table, root / "meta/tasks.parquet")
    (root / "meta/info.json").write_text(json.dumps(_info(version, episodes, length)))
    return root


def _table(index: int, length: int) -> pa.Table:
    actions = foreign_actions(index, length).astype(np.float32)
    return pa.table(
        {
            "actions": pa.array(actions.tolist(), pa.list_(pa.float32())),
            "state": pa.array(actions[:, :3].tolist(), pa.list_(pa.float32())),
            "timestamp": pa.array(np.arange(length, dtype=np.float32) / FPS),
            "frame_index": np.arange(length),
            "episode_index": np.full(length, index),
            "index": np.arange(length) + index * length,
            "task_index": np.zeros(length, np.int64),
        }
    )


def _episodes(episodes: int, length: int, tasks: tuple[str, ...]) -> pa.Table:
    columns: dict[str, list[Any]] = {
        "tasks": [[tasks[index % len(tasks)]] for index in range(episodes)],
        "episode_index": list(range(episodes)), "length": [length] * episodes, "data/chunk_index": [0] * episodes,
        "data/file_index": [0] * episodes, "dataset_from_index": [index * length for index in range(episodes)],
    }  # fmt: skip
    for camera in CAMERAS:
        columns |= {f"videos/{camera}/{name}_index": [0] * episodes for name in ("chunk", "file")}
        columns[f"videos/{camera}/from_timestamp"] = [index * length / FPS for index in range(episodes)]
    return pa.table(columns)


def _info(version: str, episodes: int, length: int) -> dict[str, object]:
    older = version.startswith("v2")
    features: dict[str, object] = {
        "actions": {"dtype": "float32", "shape": [5], "names": list(ACTION_NAMES)},
        "state": {"dtype": "float32", "shape": [3], "names": None},
    }
    for camera in CAMERAS:
        features[camera] = {"dtype": "video", "shape": [HEIGHT, WIDTH, 3], "names": ["height", "width", "channels"]}
    for name in ("timestamp", "frame_index", "episode_index", "index", "task_index"):
        features[name] = {"dtype": "float32" if name == "timestamp" else "int64", "shape": [1], "names": None}
    file = "episode_{episode_index:06d}" if older else "file-{file_index:03d}"
    chunk = "chunk-{episode_chunk:03d}" if older else "chunk-{chunk_index:03d}"
    video = f"videos/{chunk}/{{video_key}}/{file}.mp4" if older else f"videos/{{video_key}}/{chunk}/{file}.mp4"
    return {
        "codebase_version": version, "fps": FPS, "total_episodes": episodes, "total_frames": episodes * length,
        "features": features, "data_path": f"data/{chunk}/{file}.parquet", "chunks_size": 8 if older else 1000,
        "video_path": video,
    }  # fmt: skip
