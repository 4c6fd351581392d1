"""The other yardstick: libzmq's own proxy, which decides nothing.

Run as `python -m bench.proxy`; prints its two endpoints, of clients and of workers.
"""

import zmq


def main() -> None:
    """Pass everything on, for ever."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    front, back = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    ports = [socket.bind_to_random_port("tcp://127.0.0.1") for socket in (front, back)]
    print(*(f"tcp://127.0.0.1:{port}" for port in ports), flush=True)
    zmq.proxy(front, back)


if __name__ == "__main__":
    main()
