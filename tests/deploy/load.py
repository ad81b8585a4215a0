"""Users: load.py URL SECONDS USERS. Each asks, reads the answer and asks again, over a connection of its own each time.
Prints a line for each request: which user it was, when it began, how long it took (s), and the status of the answer, or what went wrong."""
import http.client
import sys
import threading
import time
import urllib.request

url, seconds, users = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
end = time.time() + seconds


def user(number):
    while (begun := time.time()) < end:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                answer.read()
                came = str(answer.status)
        except (OSError, http.client.HTTPException) as why:  # the latter: an answer that is cut off in its midst
            came = str(why).replace(" ", "-") or type(why).__name__
        print(f"{number} {begun:.3f} {time.time() - begun:.3f} {came}\n", end="", flush=True)


threads = [threading.Thread(target=user, args=(number,)) for number in range(users)]
for thread in threads:
    thread.start()
