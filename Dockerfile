# The book in a container, on http://localhost:8000 once it is built:
#   docker build -t lotperm .
#   docker run --rm -p 8000:8000 -e PROFILE=laptop lotperm
# Any other command runs in the same place, for example
#   docker run --rm -v "$PWD/results:/lotperm/results" lotperm lotperm experiment --profile laptop
FROM python:3.12-slim

# Chromium prints the PDF and runs the tests of the site.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends chromium git make \
 && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home reader && install --directory --owner=reader /lotperm
USER reader
WORKDIR /lotperm
COPY --chown=reader . .
RUN make setup

ENV PATH=/lotperm/.venv/bin:$PATH PROFILE=laptop
EXPOSE 8000
CMD ["sh", "-c", "make book PROFILE=$PROFILE && exec python -m http.server 8000 --directory _build/html"]
