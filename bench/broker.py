"""The yardstick: a least-recently-used broker in sixty lines of pyzmq, with no promise at all.

No queue bound, no liveness, no retry, no checks: what is left when everything a farm needs is taken
away. Run as `python -m bench.broker`; prints its two endpoints.
"""

import sys
from collections import deque

import zmq


def main() -> None:
    """Route requests to free workers and replies back, for ever."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    front, back = context.socket(zmq.ROUTER), context.socket(zmq.ROUTER)
    ports = [socket.bind_to_random_port("tcp://127.0.0.1") for socket in (front, back)]
    print(*(f"tcp://127.0.0.1:{port}" for port in ports), flush=True)
    poller = zmq.Poller()
    poller.register(front, zmq.POLLIN)
    poller.register(back, zmq.POLLIN)
    free: deque[bytes] = deque()
    waiting: deque[list[zmq.Frame]] = deque()
    while True:
        ready = dict(poller.poll())
        if back in ready:
            worker, *rest = back.recv_multipart(copy=False)
            free.append(worker.bytes)
            if len(rest) > 1:  # a reply for a client; a lone frame is only "ready"
                front.send_multipart(rest, copy=False)
        if front in ready:
            waiting.append(front.recv_multipart(copy=False))
        while free and waiting:
            back.send_multipart([free.popleft(), *waiting.popleft()], copy=False)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(0)
