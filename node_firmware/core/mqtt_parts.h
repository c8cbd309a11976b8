/* What the two halves of the MQTT client share. */
#ifndef MQTT_PARTS_H
#define MQTT_PARTS_H

#include "mqtt.h"

enum { CONNECT = 1, CONNACK, PUBLISH, PUBACK, SUBSCRIBE = 8, SUBACK, PINGREQ = 12, PINGRESP, DISCONNECT };

enum { R_FIRST, R_LENGTH, R_BODY, R_TOPIC_SIZE, R_TOPIC, R_PACKET_ID, R_PAYLOAD }; /* what is received next */

enum { FLAG_RETAIN = 1, FLAG_QOS_1 = 2, FLAG_QOS_2 = 4, FLAG_DUP = 8 };

uint8_t *mqtt_put_u16(uint8_t *out, size_t value);
/* Begins a packet with `length` bytes to follow its fixed header, or gives NULL where the buffer cannot hold it. */
uint8_t *mqtt_begin_control(mqtt_t *m, uint8_t first, size_t length);
void mqtt_remove_slot(mqtt_t *m, unsigned index);

#endif
