# escape=\
ARG VERSION=3.1
FROM busybox:${VERSION}
ARG VERSION
LABEL a="b c" d=e
ENV A=1 B="two words"
ENV A=$A$B
WORKDIR /srv
WORKDIR app
COPY --chown=1:2 --chmod=644 x y ./
ADD x.tar /opt/
USER nobody:nogroup
SHELL ["/bin/ash", "-ec"]
RUN echo hello
EXPOSE 80 53/udp 7000-7001
VOLUME /data ["/more"]
VOLUME ["/one", "/two"]
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --retries=2 CMD true
ONBUILD RUN later
ENTRYPOINT ["/entry"]
CMD run $A
