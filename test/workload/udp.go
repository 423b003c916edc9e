package main

import "net"

// echoUDP PORT says "ready" and sends each datagram back.
func echoUDP(args []string) int {
	conn, err := net.ListenUDP("udp", &net.UDPAddr{Port: number(args, 0)})
	if err != nil {
		fatal("%v", err)
	}
	say("ready")
	buf := make([]byte, 64<<10)
	for {
		n, from, err := conn.ReadFromUDP(buf)
		if err != nil {
			fatal("%v", err)
		}
		conn.WriteToUDP(buf[:n], from)
	}
}
