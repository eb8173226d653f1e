// Package electorhttp serves the state of an elector over HTTP, with the paths of
// Patroni, so that the checks of load balancers and patronictl-like tools work.
//
//	server := &http.Server{
//		Addr:              ":8008",
//		Handler:           electorhttp.New(e, electorhttp.Options{Authorize: electorhttp.BasicAuth(user, password)}),
//		ReadHeaderTimeout: 2 * time.Second,
//		IdleTimeout:       time.Minute,
//		MaxHeaderBytes:    64 << 10,
//	}
//	err := server.ListenAndServeTLS(certFile, keyFile)
//
// The handler bounds the bodies of requests in size and time. The program must bound the
// rest: without ReadHeaderTimeout and IdleTimeout a client that sends nothing holds a
// connection for ever. A WriteTimeout, if there is one, must be longer than two times
// elector.Table.Others, for which a request that changes the cluster may wait. The password
// and the state of the members are sent in clear text without TLS.
//
// Reading answers from memory and never waits for the store:
//
//	/ /primary /master /leader /read-write   200 while this member leads, else 503
//	/replica                                 200 while the service runs as a replica
//	/read-only                               200 for either of them
//	/health                                  200 while the service is running
//	/liveness                                200 while the elector's loop runs
//	/readiness                               200 while it leads, or follows a leader
//	/patroni                                 200 with the state of this member
//	/cluster                                 the members
//	/history                                 the changes of the leader
//	/config                                  the configuration
//	/keeper                                  the keeper, null if there is none
//	/failsafe                                the failsafe list
//	/identity                                see package clusterhttp
//	/metrics                                 if Options.Metrics is set
//
// /primary is 200 only while the leadership is valid at that moment: not before Promote
// has returned, and not from the beginning of the demotion. /replica?lag=N is 503 for a
// member that is more than N behind the last known position of the leader, and for one
// that is tagged noloadbalance.
//
// GET, HEAD and OPTIONS have the same status, as HAProxy needs it. The body of a check
// is the state of the member as JSON.
//
// Requests that change the cluster need Options.Authorize:
//
//	POST /switchover   {"leader": "a", "candidate": "b", "scheduled_at": "…"}
//	DELETE /switchover cancels a switchover that is stored and not accepted; no body
//	PATCH /config      a JSON merge patch; {"pause": true} begins a pause
//	PUT /config        the whole configuration
//	DELETE /keeper     {"name": "a"}, by force: see elector.Elector.RemoveKeeper
//	DELETE /failsafe   {}, by force: see elector.Elector.EmptyFailsafe
//
// They answer 401 without authorisation, 400 for a body that is not usable, 412 for a
// request that is refused, and 503 where the outcome is not known. A switchover answers
// 200 when the candidate leads, and 202 when it is stored for later. It must be sent to the
// leader; every other request may be sent to any member. Its cancellation answers 404 if no
// switchover is stored, and 412 if the leader has accepted the switchover.
//
// # Failsafe mode
//
// [NewFailsafeClient] is the transport of an elector's failsafe mode, and POST /failsafe
// its answering side. The members share a token, Options.FailsafeToken, which is sent as
// a bearer token. The body is bounded by 64 KiB and the answer by two seconds. The
// question is not Patroni's, so that members of both kinds refuse each other.
//
// Use TLS on both sides, with a certificate for each member that is valid for servers and
// clients. The token is then sent over TLS only, so that the Member.APIURL of every member
// must be an https URL.
//
//	members := &tls.Config{
//		Certificates: []tls.Certificate{own}, RootCAs: pool,
//		ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
//	}
//	transport := &http.Transport{TLSClientConfig: members}
//	config.Member.APIURL = "https://db1.example:8009" // a name in the certificate
//	config.Asker = clusterhttp.New(transport)
//	config.Failsafe = electorhttp.NewFailsafeClient(transport, token)
//	server := &http.Server{Addr: ":8009", Handler: handler, TLSConfig: members.Clone(), …}
//	err := server.ListenAndServeTLS("", "")
//
// The server needs a copy of the configuration, because it adds HTTP/2 there, which the
// transport does not speak.
//
// Load balancers and operators without a certificate need a second listener for the same
// handler, which does not require one.
//
// The body of a check has failsafe_mode_is_active on a leader that goes on without its
// lock and on the members that have accepted it, as in Patroni. The object failsafe there
// is the [elector.FailsafeStatus]: whether the leader is ready for an outage, the time
// for which it leads (leads_for_ms), the answers of the members that were asked last, and
// the leader that this member has accepted, with the time for which the member does not
// take the lock (blocked_for_ms).
package electorhttp
